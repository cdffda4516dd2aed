package broker

import (
	"strings"
	"testing"
)

// One who takes all that he gets leaves as many for others, and one of them cannot have all of that. What is given back
// is there again.
func TestPlaces(t *testing.T) {
	p := places{of: "places", size: 16}
	all := map[string][]func(){}
	greedy := func(who string) int {
		for {
			free, err := p.take(who)
			if err != nil {
				if !strings.Contains(err.Error(), "16 places") {
					t.Errorf("%s: %v", who, err)
				}
				return len(all[who])
			}
			all[who] = append(all[who], free)
		}
	}
	for _, c := range []struct {
		who  string
		want int
	}{{"a", 8}, {"b", 4}, {"c", 2}, {"d", 1}, {"a", 8}, {"e", 1}, {"f", 0}} {
		if got := greedy(c.who); got != c.want {
			t.Errorf("%s has %d, want %d", c.who, got, c.want)
		}
	}
	if _, err := p.take("f", "a"); err == nil || !strings.Contains(err.Error(), "all 16") {
		t.Errorf("got %v", err)
	}
	for _, free := range all["a"] {
		free()
		free() // again is no change
	}
	if _, err := p.take("b", "f"); err != nil { // 8 are left, and b has 4
		t.Error(err)
	}
	if _, err := p.take("f", "b"); err != nil || p.busy != 10 || p.held["f"] != 2 || p.held["b"] != 6 {
		t.Errorf("%v: %d, %v", err, p.busy, p.held)
	}
	if _, err := p.take("f", "b"); err == nil || !strings.Contains(err.Error(), "b has 6 of 16 places") || p.held["f"] != 2 {
		t.Errorf("%v: %v", err, p.held) // of two, neither
	}
}
