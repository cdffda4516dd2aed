package workflow

import (
	"encoding/json"
	"time"

	"github.com/stepward/stepward/internal/engine"
)

// What a body calls that is no step has a key with a colon, which the name of a
// step cannot have.
const (
	keyCancel  = "cancel:"
	keyLate    = "deadline:"
	keyTimeout = "timeout:"
	keySleep   = "sleep:"
	keyNow     = "now:"
	keyPatched = "patched:"
	keySignal  = "signal:"
	keyChild   = "child:"
)

// Sleep waits. A wait of more than a few seconds costs a worker nothing: the run
// is in Postgres meanwhile, and goes on when it is time, to about a second, by the
// clock of Postgres: when that is set back, the wait is longer by as much, and
// when it leaps ahead, shorter. The error is [ErrCanceled] or [ErrTimeout], of ctx.
func Sleep(ctx Context, d time.Duration) error {
	b, s := caller(ctx)
	b.enter()
	f := b.reserve(s, b.occurrence(keySleep))
	f.wait = &engine.Wait{Seq: f.seq, Key: f.key, Left: max(d, 0)}
	b.t.launch(f, f.listen)
	return f.get(b, s)
}

// Until waits for a time, as [Sleep] does, and for 292 years at most.
func Until(ctx Context, at time.Time) error {
	b, _ := caller(ctx)
	b.enter()
	return Sleep(ctx, at.Sub(b.t.in.Now()))
}

// Now implements Context.
func (c bodyContext) Now() time.Time {
	b, s := c.at()
	b.enter()
	out := b.instant(s, b.occurrence(keyNow), func() []byte {
		text, err := b.t.in.Now().UTC().MarshalJSON()
		if err != nil { // a year over 9999
			return []byte("null")
		}
		return text
	})
	var at time.Time
	if err := json.Unmarshal(out, &at); err != nil {
		b.park("undecodable", &ValueError{Kind: "decode", What: "time of the run", Err: err})
	}
	return at
}

// Patched implements Context.
func (c bodyContext) Patched(name string) bool {
	b, s := c.at()
	b.enter()
	t, key := b.t, b.path+keyPatched+b.checked("a patch", name)
	if known, ok := t.patches[key]; ok {
		return known
	}
	if t.patches == nil {
		t.patches = make(map[string]bool)
	}
	next, recorded := t.recorded[t.seq+1]
	t.patches[key] = len(t.replay) == 0 && t.in.Ended == 0 || recorded && next.Key == key
	if t.patches[key] {
		b.instant(s, key, func() []byte { return []byte("true") })
	}
	return t.patches[key]
}

// Finally implements Context.
func (c bodyContext) Finally(fn func(Context) error) {
	c.b.enter()
	c.b.needs(fn != nil, "function of Finally", isNil)
	c.b.t.cleanups = append(c.b.t.cleanups, fn)
}

// listen arms a wait.
func (f *future) listen() {
	f.t.arm(f, f.wait.Left)
	if waitsForOthers(f.wait) {
		f.t.look()
	}
}

// news is what has arrived and was not handed over.
type news struct {
	signals  []engine.Signal
	last     map[string]int64 // the newest signal of each name that was read
	children map[int64]engine.ChildEnd
	asked    time.Time // when the last look began
	looking  bool
	again    bool // something may have arrived since
}

// look asks for news, if anything waits for them that has not arrived yet: signals that
// nobody awaits stay in Postgres.
func (t *turn) look() {
	if t.news.looking {
		t.news.again = true
		return
	}
	var children []int64
	missing := make(map[string]int)
	for _, f := range t.armed {
		switch {
		case f.wait == nil:
		case f.wait.Child > 0:
			children = append(children, f.wait.Child)
		case f.wait.Signal != "":
			missing[f.wait.Signal]++
		}
	}
	for _, s := range t.news.signals {
		missing[s.Name]--
	}
	after := make(map[string]int64)
	for name, n := range missing {
		if n > 0 {
			after[name] = t.news.last[name]
		}
	}
	if len(children) == 0 && len(after) == 0 {
		return
	}
	t.news.looking, t.news.again, t.news.asked = true, false, t.in.Now()
	t.attempts++
	t.begun++
	t.group.Go(func() {
		n, err := t.in.Host.Look(t.ctx, after, children)
		t.inbox.post(func() {
			t.attempts--
			t.news.looking = false
			switch {
			case t.left != nil || t.ctx.Err() != nil:
				return
			case err != nil:
				t.leave(refused(err))
				return
			}
			t.news.signals = append(t.news.signals, n.Signals...)
			for _, s := range n.Signals {
				if t.news.last == nil {
					t.news.last = make(map[string]int64)
				}
				t.news.last[s.Name] = s.ID
			}
			for _, c := range n.Children {
				if t.news.children == nil {
					t.news.children = make(map[int64]engine.ChildEnd)
				}
				t.news.children[c.Run] = c
			}
			if t.news.again || n.More {
				t.look()
			}
		})
	})
}

// match hands over one thing that has arrived, to the first that waits for it.
func (t *turn) match() bool {
	if len(t.news.signals) == 0 && len(t.news.children) == 0 {
		return false
	}
	for _, f := range t.armed {
		if f.wait == nil {
			continue
		}
		if c, ok := t.news.children[f.wait.Child]; ok {
			delete(t.news.children, f.wait.Child)
			var err error
			if c.Output, _, err = t.open(c.Output); err == nil {
				c.Error, _, err = t.open(c.Error)
			}
			if err != nil {
				t.leave(unopened("result of "+f.key, err))
				return true
			}
			t.settle(f, f.ended(c))
			return true
		}
		if f.wait.Signal == "" {
			continue
		}
		for i, s := range t.news.signals {
			if s.Name == f.wait.Signal {
				v, _, err := t.open(s.Payload)
				if err != nil {
					t.leave(unopened("signal "+s.Name, err))
					return true
				}
				t.news.signals = append(t.news.signals[:i:i], t.news.signals[i+1:]...)
				t.pending.Received = append(t.pending.Received, engine.Signal{ID: s.ID, Name: s.Name})
				t.settle(f, f.checkpoint(v, nil))
				return true
			}
		}
	}
	return false
}

// waitsForOthers reports whether something else than time ends a wait.
func waitsForOthers(w *engine.Wait) bool { return w != nil && (w.Signal != "" || w.Child != 0) }
