package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/boottime"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/redact"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/runid"
	"github.com/stepward/stepward/internal/shim"
)

// secrets are what a sandbox was entrusted with. Each exec gets its own of them,
// and none is anywhere else: not in this process's environment, arguments or files.
type secrets struct {
	leash    *leash
	redactor *redact.Set // has each value before anything else does
	closed   func() bool // this process cannot be read by what it runs
	witness  envelope.Witness
	dial     Dial

	mu     sync.Mutex
	first  *envelope.Facts // a sandbox is of one attempt, and of one broker
	broker string
	nonces map[[32]byte]bool // that had a key
	key    Key               // nil: none, or used
	asked  time.Duration     // when it was made
	held   []*holding        // newest last
}

// A holding is what came in one envelope.
type holding struct {
	envelope.Opened
	given   map[*exec]bool // that got some of it
	trusted string         // the file with what programs trust the broker by; empty: none

	since time.Duration // when what the broker last said it for was asked; under leash.mu
}

// makeKey makes the key of an attempt, in the place of one that was not used.
func (s *secrets) makeKey(raw, broker []byte) (hello []byte, err error) {
	f, err := envelope.ReadFacts(raw)
	switch {
	case err != nil:
		return nil, err
	case newKey == nil:
		return nil, errors.New("the program in the sandbox has no part that opens envelopes")
	case !s.closed():
		return nil, errReadable
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.nonces[f.Nonce]:
		return nil, envelope.ErrUsed
	case s.first == nil:
	case s.broker != string(broker):
		return nil, errors.New("the sandbox has another broker")
	default:
		same := *s.first
		same.Epoch, same.Nonce, same.Policy = f.Epoch, f.Nonce, f.Policy // of each claim
		if what := same.Differs(f); what != "" {
			return nil, fmt.Errorf("%w: the sandbox is of one attempt, and %s differs", envelope.ErrFacts, what)
		}
	}
	asked := boottime.Now()
	key, err := newKey(f, broker, s.witness)
	if err != nil {
		return nil, err
	}
	if s.first == nil {
		s.first, s.broker = &f, string(broker)
	}
	s.nonces[f.Nonce] = true
	s.key, s.asked = key, asked
	return key.Hello(), nil
}

// deliver opens the envelope for the key that was made last. What is in it is on the leash
// before anything can have it.
func (s *secrets) deliver(ctx context.Context, raw []byte) error {
	h, err := s.open(raw)
	if err != nil {
		return err
	}
	err = s.unwrap(ctx, h)
	if err == nil {
		err = s.learn(h)
	}
	if err == nil {
		err = h.trust()
	}
	if err != nil {
		h.Wipe()
		return err
	}
	s.leash.hold(h) // it may stop what asks for s.mu
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(s.held, h)
	return nil
}

func (s *secrets) open(raw []byte) (*holding, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key == nil {
		return nil, envelope.ErrUsed
	}
	key := s.key
	s.key = nil
	o, err := key.Open(raw)
	if err != nil {
		return nil, err
	}
	return &holding{Opened: o, given: map[*exec]bool{}, since: s.asked}, nil
}

// learn has the values redacted from now on, if they have come in time.
func (s *secrets) learn(h *holding) error {
	for _, i := range h.Items {
		switch i.Store {
		case envelope.Knob, envelope.Placeholder, envelope.Authority:
			continue
		}
		if err := s.redactor.Add(i.Name, string(i.Value), true); err != nil { // a weak one the broker has let pass
			return err
		}
	}
	if boottime.Now() >= h.since+h.Head.Terms.Freeze {
		return errors.New("it came too late")
	}
	return nil
}

// forget ends what was given secrets of an envelope, and overwrites them.
func (s *secrets) forget(id envelope.ID, end func(*exec)) {
	s.mu.Lock()
	i := slices.IndexFunc(s.held, func(h *holding) bool { return h.Head.ID == id })
	if i < 0 {
		s.mu.Unlock()
		return
	}
	h := s.held[i]
	s.held = slices.Delete(s.held, i, i+1)
	var ends sync.WaitGroup
	for e := range h.given {
		ends.Go(func() { end(e) })
	}
	s.mu.Unlock()
	ends.Wait()
	s.leash.letGo(h)
	s.mu.Lock() // nobody copies from it any more
	h.Wipe()
	s.mu.Unlock()
	h.distrust()
}

// A grant is what one exec gets: copies.
type grant []envelope.Item

// wipe overwrites a grant, when it was handed over.
func (g grant) wipe() {
	for _, i := range g {
		clear(i.Value)
	}
}

// request adds the grant to the request of a command, and returns the values that go
// with it.
func (g grant) request(r *shim.Request) (values [][]byte) {
	for _, i := range g {
		r.Secrets = append(r.Secrets, shim.Secret{Name: i.Name, Size: len(i.Value), File: i.File})
		values = append(values, i.Value)
	}
	return values
}

// call adds the grant to the call of a guest.
func (g grant) call(call *rpc.GuestCall) {
	call.Secrets = nil // a worker cannot bring any
	for _, i := range g {
		call.Secrets = append(call.Secrets, &rpc.GuestSecret{Name: i.Name, Value: i.Value, File: i.File})
	}
}

// refused is an error that says that a command may not have what it asks for.
func refused(format string, args ...any) error {
	return connect.NewError(connect.CodePermissionDenied, fmt.Errorf(format, args...))
}

// forCommand gives e what its command asks for, if the program may have all of it.
func (s *secrets) forCommand(e *exec, names []string, p program) (g grant, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, name := range names {
		h, item := s.find(name)
		switch {
		case slices.Contains(names[:i], name):
			err = refused("secret %s: asked for twice", name)
		case h == nil:
			err = refused("secret %s: the sandbox has none of that name", name)
		case !p.among(item.Commands):
			err = refused("secret %s: not for %s", name, p)
		default:
			g.add(e, h, item)
			continue
		}
		g.wipe()
		return grant{}, err
	}
	return g, nil
}

// forGuest gives e all that the step's own function may have, if it is called as the broker knows the attempt.
func (s *secrets) forGuest(e *exec, call *rpc.GuestCall) (g grant, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) > 0 { // all of one attempt
		if what := misnamed(call, s.held[0].Head.Facts); what != "" {
			return nil, refused("guest step %s: the sandbox's secrets are of another call: its %s differs", text(call.Step), what)
		}
	}
	for _, h := range slices.Backward(s.held) {
		for _, item := range h.Items {
			same := func(i envelope.Item) bool { return i.Name == item.Name }
			if item.Guest && item.Store != envelope.Authority && !slices.ContainsFunc(g, same) {
				g.add(e, h, item)
			}
		}
	}
	return g, nil
}

// misnamed names the first thing in which a call is not of an attempt, "" if there is none.
func misnamed(call *rpc.GuestCall, f envelope.Facts) string {
	unique, ok := strings.CutSuffix(call.IdempotencyKey, "/"+f.Step)
	run, seed, _ := strings.Cut(unique, ".") // of a run that began anew
	switch {
	case call.Workflow != f.Workflow:
		return "workflow"
	case call.Version != f.Version:
		return "version"
	case call.Step != envelope.StepName(f.Step):
		return "step"
	case call.RunId != runid.Text(f.Run):
		return "run"
	case int(call.Attempt) != f.Attempt:
		return "attempt"
	case !ok || run != call.RunId || strings.Contains(seed, "/"):
		return "idempotency key"
	}
	return ""
}

// find returns the newest of a name. s.mu is held.
func (s *secrets) find(name string) (*holding, envelope.Item) {
	for _, h := range slices.Backward(s.held) {
		for _, item := range h.Items {
			if item.Name == name && item.Store != envelope.Authority {
				return h, item
			}
		}
	}
	return nil, envelope.Item{}
}

func (g *grant) add(e *exec, h *holding, item envelope.Item) {
	item.Value = slices.Clone(item.Value)
	*g = append(*g, item)
	h.given[e] = true
	if item.Store == envelope.Placeholder {
		g.trust(h)
	}
}

// ended is called when nothing is left of an exec.
func (s *secrets) ended(e *exec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.held {
		delete(h.given, e)
	}
}
