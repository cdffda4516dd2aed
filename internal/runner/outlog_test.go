package runner

import (
	"bytes"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/stepward/stepward/internal/rpc"
)

func newOutlog() *outlog { return &outlog{wake: new(broadcast)} }

func TestOutlogReads(t *testing.T) {
	l := newOutlog()
	l.write([]byte("0123456789"))
	for _, c := range []struct {
		offset int64
		limit  int
		want   string
		at     int64
	}{
		{0, 4, "0123", 0}, {4, 100, "456789", 4}, {10, 5, "", 10},
		{99, 5, "", 10}, {-7, 2, "01", 0}, // what no worker asks for
	} {
		if got, at, over := l.read(c.offset, c.limit); string(got) != c.want || at != c.at || over {
			t.Errorf("read(%d, %d) = %q at %d, over %v", c.offset, c.limit, got, at, over)
		}
	}
	l.close()
	if got, _, over := l.read(6, 100); string(got) != "6789" || over {
		t.Errorf("after the end: %q, over %v", got, over)
	}
	if _, _, over := l.read(10, 100); !over {
		t.Error("all was read, and it is not over")
	}
	if l.write([]byte("x")) {
		t.Error("a write after close succeeded")
	}
	l.drop()
	if got, at, over := l.read(0, 100); len(got) > 0 || at != 10 || !over {
		t.Errorf("after drop: %q at %d, over %v: a reader must see that bytes are gone", got, at, over)
	}
}

// However much is printed, a log holds a bounded part: what no reader took, and
// before that as much as a connection can swallow.
func TestOutlogBounded(t *testing.T) {
	l := newOutlog()
	const total = 64 << 20
	var writing sync.WaitGroup
	writing.Go(func() {
		line := make([]byte, 32<<10)
		for n := int64(0); n < total; n += int64(len(line)) {
			for i := range line {
				line[i] = byte((n + int64(i)) % 251)
			}
			l.write(line)
		}
		l.close()
	})
	var offset int64
	for {
		wait := l.wake.wait()
		data, at, over := l.read(offset, 64<<10)
		if over {
			break
		}
		if len(data) == 0 {
			<-wait
			continue
		}
		if at != offset || data[0] != byte(at%251) {
			t.Fatalf("at %d instead of %d begins %d", at, offset, data[0])
		}
		offset += int64(len(data))
		l.took(offset)
		l.mu.Lock()
		held, behind, start := cap(l.buf), l.taken-l.start, l.start
		l.mu.Unlock()
		if held > 2*(logBehind+2*logAhead) {
			t.Fatalf("it holds %d bytes", held)
		}
		if behind < logBehind && start > 0 {
			t.Fatalf("only %d bytes of what was taken are left", behind)
		}
	}
	writing.Wait()
	if offset != total {
		t.Errorf("read %d bytes of %d", offset, total)
	}
}

// Nobody reads: the writer waits, until a reader comes or the exec is over.
func TestOutlogHoldsUp(t *testing.T) {
	l := newOutlog()
	if !l.write(bytes.Repeat([]byte("x"), logAhead)) {
		t.Fatal("what fits was refused")
	}
	wrote := make(chan bool, 1)
	go func() { wrote <- l.write([]byte("y")) }()
	if _, _, over := l.read(0, 1); over {
		t.Error("over while a writer waits")
	}
	select {
	case <-wrote:
		t.Error("a write went ahead of its reader by more than logAhead")
	default:
	}
	l.took(1)
	if !<-wrote {
		t.Error("a write for which there was room was refused")
	}
	go func() { wrote <- l.write([]byte("zz")) }()
	l.close()
	if <-wrote {
		t.Error("a write beyond the end succeeded")
	}
}

// An answer is given up from its front, at the end of a field: who comes late can read on.
// What is no heartbeat, nor shown, stays.
func TestOutlogOfAnswer(t *testing.T) {
	l := newOutlog()
	l.answer = true
	field := func(number protowire.Number, size int) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), bytes.Repeat([]byte{'x'}, size))
	}
	starts := map[int64]bool{}
	var at int64
	write := func(b []byte) {
		for len(b) > 0 { // as a pipe is read
			n := min(len(b), 32<<10)
			l.write(b[:n])
			at += int64(n)
			l.took(at)
			b = b[n:]
		}
		if !starts[l.start] {
			t.Fatalf("it begins in the middle of a field, at byte %d", l.start)
		}
	}
	for i := range 200 {
		starts[at] = true
		write(field(rpc.DetailsField+protowire.Number(i%2), 10_000+100*i))
	}
	if l.start == 0 {
		t.Error("nothing was given up")
	}
	answer := at
	starts[at] = true
	write(field(1, 4<<20))
	write(field(1, 4<<20))
	if l.start > answer || at-answer < 8<<20 {
		t.Errorf("it begins at byte %d, and the answer at %d", l.start, answer)
	}
	if data, from, _ := l.read(0, 1); len(data) != 1 || from != l.start {
		t.Errorf("read from byte %d on: %d bytes", from, len(data))
	}
}
