// Package warm keeps sandboxes ready that nobody has used, so that an attempt need
// not wait for one to be made. A sandbox leaves the pool for one run and never
// comes back.
package warm

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// Config says what a [Pool] keeps.
type Config struct {
	Backend  sandbox.Backend
	Min, Max int           // per kind
	Idle     time.Duration // what was not needed for so long is given up

	// Labels returns those of a sandbox that has no run. What was made with other
	// labels than it returns now is not handed out.
	Labels func() sandbox.Labels

	OrphanAfter time.Duration // see sandbox.Options

	// Guest reports whether guest steps need sandboxes of the kind: their process is
	// started ahead, too.
	Guest func(sandbox.Kind) bool

	// Record notes a sandbox before it is made, and Forget what is gone.
	Record func(ctx context.Context, id string) error
	Forget func(ctx context.Context, id string)

	Log *slog.Logger
}

const (
	makers     = 4         // sandboxes that are made at a time
	maxAge     = time.Hour // of a sandbox: by then, an image's name may stand for another image
	leastPause = time.Second
	mostPause  = time.Minute
	destroying = 15 * time.Second
)

// A Pool keeps between Min and Max sandboxes of each kind: more as soon as one was
// asked for and not there, fewer when some were never needed for Idle. Its methods
// are safe for concurrent use.
type Pool struct {
	cfg  Config
	wake chan struct{}

	mu     sync.Mutex
	kinds  map[sandbox.Kind]*kind
	closed bool
	making sync.WaitGroup
	n      int // under way
}

type kind struct {
	kind   sandbox.Kind
	ready  []made // oldest first
	making int
	want   int
	unused int       // the least that was ready since the last look
	look   time.Time // when what was not needed is given up
	pause  time.Duration
	after  time.Time // not earlier is another one made, as the last could not be
}

type made struct {
	sb     *sandbox.Sandbox
	labels sandbox.Labels
	at     time.Time
}

// New returns a pool, which [Pool.Run] fills.
func New(cfg Config) *Pool {
	return &Pool{cfg: cfg, wake: make(chan struct{}, 1), kinds: map[sandbox.Kind]*kind{}}
}

// Take returns a sandbox of the kind that nobody has used, for the caller to claim
// and to destroy, or nil when none is ready.
func (p *Pool) Take(k sandbox.Kind) *sandbox.Sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.ring()
	x := p.kind(k)
	for len(x.ready) > 0 {
		m := x.ready[0]
		x.ready = x.ready[1:]
		x.unused = min(x.unused, len(x.ready))
		if m.labels == p.cfg.Labels() {
			return m.sb
		}
		p.drop(m.sb)
	}
	x.unused = 0
	x.want = min(max(1, 2*x.want), p.cfg.Max)
	return nil
}

// Ready returns how many sandboxes wait.
func (p *Pool) Ready() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, x := range p.kinds {
		n += len(x.ready)
	}
	return n
}

// Run keeps the pool filled, with Min of each of kinds to begin with, until ctx is
// done. Then it destroys what nobody has taken.
func (p *Pool) Run(ctx context.Context, kinds []sandbox.Kind) {
	p.mu.Lock()
	for _, k := range kinds {
		p.kind(k)
	}
	p.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			p.close()
			return
		case <-p.wake:
		case <-timer.C:
		}
		timer.Reset(time.Until(p.tend(ctx)))
	}
}

// tend gives up what is not needed, begins to make what is missing, and returns
// when to look again.
func (p *Pool) tend(ctx context.Context) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	next := now.Add(p.cfg.Idle)
	for _, x := range p.kinds {
		for len(x.ready) > 0 && now.Sub(x.ready[0].at) > maxAge {
			p.drop(x.ready[0].sb)
			x.ready = x.ready[1:]
		}
		if !now.Before(x.look) {
			x.want = max(p.cfg.Min, x.want-x.unused)
			for len(x.ready) > x.want {
				p.drop(x.ready[0].sb)
				x.ready = x.ready[1:]
			}
			x.unused, x.look = len(x.ready), now.Add(p.cfg.Idle)
		}
		if x.look.Before(next) {
			next = x.look
		}
		for len(x.ready)+x.making < x.want && p.n < makers {
			if now.Before(x.after) {
				if x.after.Before(next) {
					next = x.after
				}
				break
			}
			x.making++
			p.n++
			p.making.Go(func() { p.make(ctx, x) })
		}
	}
	return next
}

// make makes one sandbox.
func (p *Pool) make(ctx context.Context, x *kind) {
	labels := p.cfg.Labels()
	id := fmt.Sprintf("warm-%016x", rand.Uint64())
	var sb *sandbox.Sandbox
	err := p.cfg.Record(ctx, id)
	if err == nil {
		sb, err = sandbox.Start(ctx, p.cfg.Backend, sandbox.Options{
			ID: id, Labels: labels, OrphanAfter: p.cfg.OrphanAfter, SpareGuest: p.cfg.Guest(x.kind),
			Spec: sandbox.Spec{Image: x.kind.Image, Limits: x.kind.Limits, Require: x.kind.Require},
		})
	}
	if err != nil {
		p.cfg.Forget(context.WithoutCancel(ctx), id) // also when the answer about the note was lost
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.ring()
	x.making--
	p.n--
	switch {
	case err != nil:
		if ctx.Err() == nil {
			x.pause = min(max(leastPause, 2*x.pause), mostPause)
			x.after = time.Now().Add(x.pause)
			p.cfg.Log.WarnContext(ctx, "no sandbox could be made ahead of need", "image", x.kind.Image, "again_in", x.pause, "error", err)
		}
	case p.closed || len(x.ready) >= p.cfg.Max:
		p.drop(sb)
	default:
		x.pause = 0
		x.ready = append(x.ready, made{sb, labels, time.Now()})
	}
}

// drop destroys a sandbox that nobody has taken.
func (p *Pool) drop(sb *sandbox.Sandbox) {
	p.making.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), destroying)
		defer cancel()
		if err := sb.Destroy(ctx); err != nil {
			p.cfg.Log.WarnContext(ctx, "sandbox was not destroyed", "sandbox", sb.ID(), "error", err)
			return
		}
		p.cfg.Forget(ctx, sb.ID())
	})
}

// close destroys what is there, and waits for what is being made.
func (p *Pool) close() {
	p.mu.Lock()
	p.closed = true
	for _, x := range p.kinds {
		for _, m := range x.ready {
			p.drop(m.sb)
		}
		x.ready = slices.Delete(x.ready, 0, len(x.ready))
	}
	p.mu.Unlock()
	p.making.Wait()
}

func (p *Pool) kind(k sandbox.Kind) *kind {
	x := p.kinds[k]
	if x == nil {
		x = &kind{kind: k, want: p.cfg.Min, look: time.Now().Add(p.cfg.Idle)}
		p.kinds[k] = x
	}
	return x
}

func (p *Pool) ring() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
