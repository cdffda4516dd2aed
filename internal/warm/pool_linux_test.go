package warm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/warm"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandboxtest.Init()
	os.Exit(m.Run())
}

// A fleet is a pool of local sandboxes, with what it has on record.
type fleet struct {
	*warm.Pool
	backend sandbox.Backend
	stop    func() // returns when Run has

	session atomic.Int64

	mu      sync.Mutex
	refuse  error
	tries   int
	rows    map[string]bool
	changed chan struct{} // closed at each change of the above
}

func newFleet(t *testing.T, cfg warm.Config, kinds ...sandbox.Kind) *fleet {
	t.Helper()
	b := local.New(local.Config{})
	if _, err := b.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := &fleet{backend: b, rows: map[string]bool{}, changed: make(chan struct{})}
	schema := fmt.Sprintf("warm_%d", time.Now().UnixNano())
	cfg.Backend, cfg.Log, cfg.Guest = b, slog.New(slog.DiscardHandler), func(sandbox.Kind) bool { return true }
	cfg.Labels = func() sandbox.Labels {
		return sandbox.Labels{Schema: schema, Session: f.session.Load()}
	}
	cfg.Record = func(_ context.Context, id string) (err error) {
		f.change(func() {
			f.tries++
			if err = f.refuse; err == nil {
				f.rows[id] = true
			}
		})
		return err
	}
	cfg.Forget = func(_ context.Context, id string) { f.change(func() { delete(f.rows, id) }) }
	f.Pool = warm.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx, kinds) }()
	f.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(func() {
		f.stop()
		if left, err := b.List(context.Background(), schema); err != nil || len(left) > 0 {
			t.Errorf("left behind: %+v, %v", left, err)
		}
		f.change(func() {
			for id := range f.rows {
				t.Errorf("%s is on record", id)
			}
		})
	})
	return f
}

func (f *fleet) change(what func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what()
	close(f.changed)
	f.changed = make(chan struct{})
}

// until waits for a state of the pool.
func (f *fleet) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond) // a sandbox that got ready changes no row
	defer tick.Stop()
	for {
		f.mu.Lock()
		is, changed := ok(), f.changed
		f.mu.Unlock()
		if is {
			return
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not yet: %s", what)
		}
	}
}

// gone destroys what the test has taken.
func (f *fleet) gone(t *testing.T, all ...*sandbox.Sandbox) {
	t.Helper()
	for _, sb := range all {
		if err := sb.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
		f.change(func() { delete(f.rows, sb.ID()) })
	}
}

var plain sandbox.Kind

// What is taken is replaced, and nobody gets what another one has.
func TestTake(t *testing.T) {
	t.Parallel()
	f := newFleet(t, warm.Config{Min: 2, Max: 4, Idle: time.Hour}, plain)
	f.until(t, "two are ready", func() bool { return f.Ready() == 2 })
	var mu sync.Mutex
	var all []*sandbox.Sandbox
	var takers sync.WaitGroup
	for range 8 {
		takers.Go(func() {
			if sb := f.Take(plain); sb != nil {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, sb)
			}
		})
	}
	takers.Wait()
	ids := map[string]bool{}
	for _, sb := range all {
		ids[sb.ID()] = true
		if _, err := sb.FS().Open("workspace"); err != nil {
			t.Errorf("%s does not answer: %v", sb.ID(), err)
		}
	}
	if len(all) < 2 || len(ids) != len(all) {
		t.Errorf("took %d, of which %d differ", len(all), len(ids))
	}
	f.gone(t, all...)
	f.until(t, "as many are ready as may be, as eight were asked for", func() bool { return f.Ready() == 4 })
	if sb := f.Take(sandbox.Kind{Limits: sandbox.Limits{OpenFiles: 99}}); sb != nil {
		t.Errorf("%s is of another kind", sb.ID())
		f.gone(t, sb)
	}
	f.until(t, "those of the other kind are ready", func() bool { return f.Ready() == 8 })
}

// What was not needed for a while is given up, down to the least.
func TestIdle(t *testing.T) {
	t.Parallel()
	f := newFleet(t, warm.Config{Min: 1, Max: 8, Idle: 50 * time.Millisecond})
	for range 4 { // none yet: each asks for more
		if sb := f.Take(plain); sb != nil {
			f.gone(t, sb)
		}
	}
	f.until(t, "more than the least was made", func() bool { return len(f.rows) > 1 })
	f.until(t, "the least is left", func() bool { return len(f.rows) == 1 && f.Ready() == 1 })
}

// What is made while Postgres or the backend refuses is tried again, more and more
// seldom, and not once per call.
func TestRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, warm.Config{Max: 1, Idle: time.Hour})
	f.change(func() { f.refuse = errors.New("no Postgres") })
	for range 1000 {
		if f.Take(plain) != nil {
			t.Fatal("there is one")
		}
	}
	f.until(t, "it was tried again", func() bool { return f.tries >= 2 })
	f.change(func() {
		if f.tries > 3 {
			t.Errorf("tried %d times at once", f.tries)
		}
		f.refuse = nil
	})
	f.until(t, "it is there", func() bool { return f.Ready() == 1 })
}

// A worker that has got a new session does not hand out what it made before: others
// may be removing that.
func TestNewSession(t *testing.T) {
	t.Parallel()
	f := newFleet(t, warm.Config{Min: 1, Max: 1, Idle: time.Hour}, plain)
	f.until(t, "one is ready", func() bool { return f.Ready() == 1 })
	var old []string
	f.change(func() { old = slices.Collect(maps.Keys(f.rows)) })
	f.session.Store(2)
	if sb := f.Take(plain); sb != nil {
		t.Errorf("%s is of the old session", sb.ID())
		f.gone(t, sb)
	}
	f.until(t, "another one is ready", func() bool { return f.Ready() == 1 && len(f.rows) == 1 && !f.rows[old[0]] })
}
