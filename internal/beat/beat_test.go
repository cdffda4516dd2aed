package beat

import (
	"fmt"
	"testing"
	"time"
)

// The first goes at once; of those that come too soon the newest is left over.
func TestLine(t *testing.T) {
	passed := make(chan string, 10)
	l := &Line{Every: time.Hour, Pass: func(b []byte) { passed <- string(b) }}
	l.Send([]byte("1"))
	if got := <-passed; got != "1" {
		t.Fatal(got)
	}
	for i := 2; i < 100; i++ {
		l.Send(fmt.Append(nil, i))
	}
	newest, left := l.Close()
	if string(newest) != "99" || !left || len(passed) != 0 {
		t.Errorf("%q, %v, and %d were passed on", newest, left, len(passed))
	}
	l.Send([]byte("late"))
	if newest, _ := l.Close(); string(newest) != "99" {
		t.Errorf("%q after the end", newest)
	}
}

func TestLineGoesOn(t *testing.T) {
	passed := make(chan string)
	l := &Line{Every: time.Millisecond, Pass: func(b []byte) { passed <- string(b) }}
	for i := range 3 {
		l.Send(fmt.Append(nil, i))
		if got := <-passed; got != fmt.Sprint(i) {
			t.Errorf("%d: %q", i, got)
		}
	}
	if _, left := l.Close(); left {
		t.Error("something is left over")
	}
	if newest, left := new(Line).Close(); newest != nil || left {
		t.Error("a line that nobody used")
	}
}
