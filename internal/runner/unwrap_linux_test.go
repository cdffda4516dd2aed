package runner

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/boottime"
	"github.com/stepward/stepward/internal/envelope"
)

// What the broker sees to of a value that it has, the sandbox does of one that was wrapped: all values are good, or there
// are none.
func TestUnwrap(t *testing.T) {
	const good = "a-value-that-is-long-enough"
	defer func(was func(context.Context, []byte, Dial) (Unwrapped, error)) { unwrap = was }(unwrap)
	away := errors.New("connection refused")
	answers := map[string]struct {
		Unwrapped
		err    error
		reason string // "": it may work the next time
	}{
		"weak":           {Unwrapped{Value: []byte("abc")}, nil, reasonValue},
		"empty":          {Unwrapped{}, nil, reasonValue},
		"with a NUL":     {Unwrapped{Value: []byte(good + "\x00")}, nil, reasonValue},
		"too long":       {Unwrapped{Value: []byte(strings.Repeat("aB3$", 64<<10))}, nil, reasonValue},
		"not that field": {Unwrapped{Bad: true}, errors.New("no field"), reasonValue},
		"lost":           {Unwrapped{Lost: true}, errors.New("somebody"), reasonWrap},
		"away":           {Unwrapped{}, away, ""},
	}
	unwrap = func(_ context.Context, raw []byte, _ Dial) (Unwrapped, error) {
		switch a, ok := answers[string(raw)]; {
		case ok:
			return a.Unwrapped, a.err
		case string(raw) == "may be weak":
			return Unwrapped{Value: []byte("abc"), Weak: true}, nil
		}
		return Unwrapped{Value: []byte(good)}, nil
	}
	open := func(second string) (*holding, error) {
		h := &holding{since: boottime.Now()}
		h.Head.Terms.Freeze = 15 * time.Second
		h.Items = []envelope.Item{
			{Name: "FIRST", Store: "vault", Value: []byte("good"), Wrapped: true}, {Name: "PLAIN", Store: "file", Value: []byte("plain")},
			{Name: "SECOND", Store: "vault", Value: []byte(second), Wrapped: true},
		}
		return h, (&secrets{}).unwrap(t.Context(), h)
	}
	for name, a := range answers {
		_, err := open(name)
		u, ok := errors.AsType[*unwrapError](err)
		if a.reason == "" {
			if ok || !errors.Is(err, away) {
				t.Errorf("%s: %v, want it to be tried again", name, err)
			}
			continue
		}
		if !ok || u.reason != a.reason || u.name != "SECOND" || strings.Contains(err.Error(), good) {
			t.Errorf("%s: %v, want a refusal for %s", name, err, a.reason)
		}
	}
	h, err := open("may be weak")
	if err != nil || string(h.Items[0].Value) != good || string(h.Items[1].Value) != "plain" || string(h.Items[2].Value) != "abc" || h.Items[0].Wrapped {
		t.Errorf("%v, %+v", err, h.Items)
	}
}
