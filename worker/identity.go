package worker

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
	"github.com/stepward/stepward/internal/tunnel"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

const (
	// renewEvery is how often the secrets of an attempt are renewed.
	renewEvery = 5 * time.Second

	// brokerTimeout bounds one call of the broker, which may have to ask a store.
	brokerTimeout = 20 * time.Second

	// renewTimeout bounds one renewal: there is time for another before the sandbox stops.
	renewTimeout = 4 * time.Second

	// foundTimeout bounds the question what was found.
	foundTimeout = 2 * time.Second

	// awayMost is how long an attempt waits for a broker that is away, and keyMost for one that is to
	// seal, as the sandbox's key is good for a short time; awayPause, how long it is until the next
	// attempt then.
	awayMost  = time.Minute
	keyMost   = 10 * time.Second
	lostMost  = 30 * time.Second // for what it has to put on record
	awayPause = 10 * time.Second
)

// openBroker finds the way to the broker, if any step needs one. A child is started by the
// first step that does. In a program that was root, what starts it learns its database now, also from a worker
// that needs none; or ends, as the broker is another.
func (w *worker) openBroker() error {
	if w.Broker == "" {
		brokerlink.Pin(brokerlink.NewSetup(w.Pool, w.Schema))
	} else {
		brokerlink.Release()
	}
	for _, d := range w.defs {
		if needsBroker(d) {
			link, err := newLink(w)
			w.broker = link
			return err
		}
	}
	return nil
}

func needsBroker(d *engine.Definition) bool {
	return slices.ContainsFunc(d.Steps, func(s *engine.Step) bool { return workflow.Mode(s.Mode) >= workflow.Identity })
}

func newLink(w *worker) (*brokerlink.Link, error) {
	if w.Broker == "" {
		return brokerlink.Child(brokerlink.NewSetup(w.Pool, w.Schema), func(line string) { w.log.Info("broker", "said", line) }), nil
	}
	return brokerlink.New(w.Broker, w.BrokerTLS)
}

// checkBroker returns what is wrong with an address.
func checkBroker(address string, t *tls.Config) error {
	if address == "" {
		return nil
	}
	link, err := brokerlink.New(address, t)
	if err != nil {
		return fmt.Errorf("worker: Config.Broker: %w", err)
	}
	link.Close()
	return nil
}

// lent is what the sandbox of an attempt has of a tenant's secrets. The worker carries
// what the broker and the sandbox say to each other, and understands none of it.
type lent struct {
	h     *host
	b     *box
	claim *rpc.Claim
	taken bool        // from another worker
	end   func(error) // of the attempt
	stop  context.CancelFunc
	over  sync.WaitGroup

	keyed   bool        // the sandbox has heard of the broker here, and takes no other
	since   time.Time   // when it did
	routed  bool        // used by one goroutine at a time: who issues, and then who renews
	listed  []string    // the secrets of the step
	revoked atomic.Bool // the sandbox is told that it is over, and its end waits for nothing
}

// lend has the broker seal the secrets of an attempt to its sandbox, or go on with what
// another worker had it seal, and renews them from then on.
func (h *host) lend(ctx context.Context, a engine.Attempt, b *box, end func(error)) (*lent, error) {
	l := &lent{h: h, b: b, end: end, taken: a.Sandbox != "", listed: a.Step.Secrets, claim: &rpc.Claim{
		Run: h.t.run, Seq: int32(a.Seq), Attempt: int32(a.Number), Epoch: int32(h.t.epoch), Session: h.t.session, Sandbox: b.id,
	}}
	err := errUnopened
	if l.taken {
		err = l.patiently(ctx, awayMost, l.renew)
	}
	if errors.Is(err, errUnopened) {
		err = l.issue(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		err = l.fault(ctx, err)
		if l.keyed && errors.Is(err, engine.ErrHandBack) && h.w.lease.slack() > 0 {
			b.lasts = false // the next worker's broker may be another; there is nothing to go on with
		}
		return nil, err
	}
	h.w.mended(ctx, h.t)
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	l.over.Go(func() { l.keep(renewing) })
	return l, nil
}

// able returns what an attempt ends with that the broker here gives nothing, whatever sandbox it gets. No answer is for
// lend to see to, which waits for one.
func (h *host) able(ctx context.Context, a engine.Attempt) error {
	l := &lent{h: h}
	err := l.call(ctx, brokerTimeout, func(ctx context.Context, c rpcconnect.BrokerClient) error {
		_, err := c.Check(ctx, connect.NewRequest(&rpc.CheckRequest{
			Claim: &rpc.Claim{Run: h.t.run, Seq: int32(a.Seq), Attempt: int32(a.Number), Epoch: int32(h.t.epoch), Session: h.t.session},
			Step:  a.Key, Backend: h.w.backend.Name(),
		}))
		return err
	})
	_, away := errors.AsType[*awayError](err)
	_, start := errors.AsType[*brokerlink.StartError](err)
	if r := refused(err); !away && (start || r != nil && slices.Contains([]string{"worker", "level", "store"}, r.Reason)) {
		return l.fault(ctx, err)
	}
	return nil
}

// errUnopened reports that the sandbox has got nothing yet.
var errUnopened = errors.New("no envelope was opened")

// awayError reports a broker that could not answer. It says nothing of the attempt.
type awayError struct{ err error }

func (e *awayError) Error() string { return e.err.Error() }

func (e *awayError) Unwrap() error { return e.err }

// patiently calls f again while the broker is away, for a time; and for no more than half of what the
// attempt has left.
func (l *lent) patiently(ctx context.Context, most time.Duration, f func(context.Context) error) error {
	until := time.Now().Add(most)
	if d, ok := ctx.Deadline(); ok {
		if half := time.Now().Add(time.Until(d) / 2); half.Before(until) {
			until = half
		}
	}
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := f(ctx)
		if _, away := errors.AsType[*awayError](err); !away || ctx.Err() != nil || time.Now().Add(pause).After(until) {
			return err
		}
		l.h.w.log.WarnContext(ctx, "waiting for the broker", "sandbox", l.b.id, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// call calls the broker, again when it was not there. Its error is an *awayError when it may be there
// later.
func (l *lent) call(ctx context.Context, timeout time.Duration, f func(ctx context.Context, c rpcconnect.BrokerClient) error) error {
	for again := false; ; again = true {
		starting, cancel := context.WithTimeout(ctx, brokerTimeout)
		c, err := l.h.w.broker.Client(starting)
		cancel()
		if err != nil {
			if start, ok := errors.AsType[*brokerlink.StartError](err); ok && start.Away {
				if errors.Is(err, brokerlink.ErrLauncher) { // nobody has to wait for that
					l.h.w.strandedNow(l.h.t.session, err)
					return err
				}
				err = &awayError{err}
			}
			return err
		}
		try, cancel := context.WithTimeout(ctx, timeout)
		err = f(try, c)
		late := try.Err() != nil && ctx.Err() == nil
		cancel()
		if err != nil && late {
			l.h.w.broker.Forsake() // what hangs, hangs the next call, too
		}
		switch code := connect.CodeOf(err); {
		case brokerlink.Refused(err) != nil:
			return brokerlink.Refused(err)
		case err == nil, ctx.Err() != nil:
			return err
		case code == connect.CodeUnavailable && !again && !late:
		case code == connect.CodeUnavailable, code == connect.CodeResourceExhausted, late:
			return &awayError{err}
		default:
			return err
		}
	}
}

func (l *lent) issue(ctx context.Context) error {
	var begun *connect.Response[rpc.BeginResponse]
	err := l.patiently(ctx, awayMost, func(ctx context.Context) error {
		return l.call(ctx, brokerTimeout, func(ctx context.Context, c rpcconnect.BrokerClient) (err error) {
			begun, err = c.Begin(ctx, connect.NewRequest(&rpc.BeginRequest{Claim: l.claim}))
			return err
		})
	})
	if err != nil {
		return err
	}
	hello, err := l.b.sb.Secrets().Key(ctx, begun.Msg.Facts, begun.Msg.PublicKey)
	if err != nil {
		return err
	}
	l.keyed, l.since = true, time.Now()
	var issued *connect.Response[rpc.IssueResponse]
	err = l.patiently(ctx, keyMost, func(ctx context.Context) error {
		return l.call(ctx, brokerTimeout, func(ctx context.Context, c rpcconnect.BrokerClient) (err error) {
			issued, err = c.Issue(ctx, connect.NewRequest(&rpc.IssueRequest{Claim: l.claim, Hello: hello}))
			return err
		})
	})
	if err != nil {
		return err
	}
	l.route(issued.Msg.Inject)
	delivered := l.b.sb.Secrets().Deliver(ctx, issued.Msg.Envelope)
	if u, ok := errors.AsType[*sandbox.UnwrapError](delivered); ok && (slices.Contains(l.listed, u.Name) || slices.Contains(l.listed, u.Name+"?")) {
		return l.unwrapped(ctx, u)
	}
	if delivered != nil {
		return delivered
	}
	err = l.call(ctx, brokerTimeout, func(ctx context.Context, c rpcconnect.BrokerClient) error {
		_, err := c.Opened(ctx, connect.NewRequest(&rpc.OpenedRequest{Claim: l.claim}))
		return err
	})
	if err != nil && ctx.Err() == nil { // that it was issued is on record
		l.h.w.log.WarnContext(ctx, "the broker has not heard that an envelope was opened", "sandbox", l.b.id, "error", err)
	}
	return nil
}

// unwrapped is what the attempt ends with when the sandbox could not have a wrapped value. That somebody else has had it,
// the broker puts on record, also for an attempt that is being canceled; if it is away for long, the step's failure
// alone says so.
func (l *lent) unwrapped(ctx context.Context, u *sandbox.UnwrapError) error {
	if !u.Lost {
		return &brokerlink.Refusal{Reason: "unresolved", Name: u.Name, Err: u}
	}
	reporting, cancel := context.WithTimeout(context.WithoutCancel(ctx), lostMost)
	defer cancel()
	err := l.patiently(reporting, lostMost, func(ctx context.Context) error {
		return l.call(ctx, brokerTimeout, func(ctx context.Context, c rpcconnect.BrokerClient) error {
			_, err := c.Opened(ctx, connect.NewRequest(&rpc.OpenedRequest{Claim: l.claim, Lost: u.Name}))
			return err
		})
	})
	if err != nil {
		l.h.w.log.ErrorContext(ctx, "the broker has not heard that a wrapped secret was lost: rotate it", "sandbox", l.b.id, "secret", u.Name, "error", err)
	}
	return &brokerlink.Refusal{Reason: "wrap", Name: u.Name, Err: u}
}

// refused returns the broker's refusal that an error is, or nil. What a sandbox answers with is none, whatever it has in it;
// see unwrapped for the one thing that it is believed.
func refused(err error) *brokerlink.Refusal {
	r, _ := errors.AsType[*brokerlink.Refusal](err)
	return r
}

// fault is what the attempt ends with. What an operator or a deploy can cure parks the run, if no other worker may have it.
func (l *lent) fault(ctx context.Context, err error) error {
	if errors.Is(err, brokerlink.ErrLauncher) {
		l.h.t.stop(engine.ErrHandBack)
		return engine.ErrHandBack
	}
	r := refused(err)
	reason := ""
	if r != nil {
		reason = r.Reason
	}
	switch reason {
	case "worker":
		l.h.w.revokedNow(l.h.t.session, r)
		l.h.t.stop(engine.ErrHandBack)
		return engine.ErrHandBack
	case "sandbox":
		return &engine.Fault{Kind: "sandbox", Message: r.Error(), Type: fmt.Sprintf("%T", r), Orphan: true, Err: err}
	case "revoked":
		return &engine.Fault{Kind: "revoked", Message: r.Error(), Permanent: true, Err: err}
	case "unresolved", "denied", "pin", "mismatch", "wrap":
		return &engine.Fault{Kind: "identity", Message: r.Error(), Permanent: true, Err: err}
	case "changed": // somebody has written to what the broker had on record
		return &engine.ParkError{Reason: "identity", Err: r}
	case "level", "store":
		return l.elsewhere(ctx, r.Reason, r.Name, r)
	}
	if away, ok := errors.AsType[*awayError](err); ok { // no fault of the step, and no attempt of it
		return &engine.Fault{Kind: "identity", Message: away.Error(), Orphan: true, After: awayPause, Err: err}
	}
	if start, ok := errors.AsType[*brokerlink.StartError](err); ok {
		return l.elsewhere(ctx, lacksBroker, "", start)
	}
	if errors.Is(err, sandbox.ErrLost) || l.taken && errors.Is(err, sandbox.ErrSecret) { // that of another broker refuses the one here
		return &engine.Fault{Kind: "sandbox", Message: err.Error(), Type: fmt.Sprintf("%T", err), Orphan: l.taken, Err: err}
	}
	return &engine.Fault{Kind: "identity", Message: err.Error(), Err: err} // it may work the next time
}

// renew carries one renewal.
func (l *lent) renew(ctx context.Context) error {
	challenge, err := l.b.sb.Secrets().Challenge(ctx)
	if err != nil {
		return err
	}
	var answer *connect.Response[rpc.RenewResponse]
	err = l.call(ctx, renewTimeout, func(ctx context.Context, c rpcconnect.BrokerClient) (err error) {
		answer, err = c.Renew(ctx, connect.NewRequest(&rpc.RenewRequest{Claim: l.claim, Challenge: challenge}))
		return err
	})
	if r := refused(err); r != nil && r.Reason == "unopened" {
		return errUnopened
	}
	if err != nil {
		return err
	}
	l.route(answer.Msg.Inject)
	var revoked error
	if answer.Msg.Revoked != "" {
		revoked = &brokerlink.Refusal{Reason: cmp.Or(answer.Msg.Reason, "revoked"), Err: errors.New(answer.Msg.Revoked)}
		l.revoked.Store(true)
		l.end(l.fault(ctx, revoked)) // first: the sandbox kills what runs in it
		ctx = context.WithoutCancel(ctx)
	}
	err = l.b.sb.Secrets().Renew(ctx, answer.Msg.Renewal)
	switch {
	case revoked != nil:
		return revoked
	case l.taken && errors.Is(err, sandbox.ErrSecret):
		return errUnopened // it was issued, and did not arrive
	}
	return err
}

// route has the sandbox's connections to some hosts made by the broker, where its TLS ends.
func (l *lent) route(endpoints []string) {
	if l.routed || len(endpoints) == 0 {
		return
	}
	l.routed = true
	l.b.sb.Secrets().Route(endpoints, func(ctx context.Context, endpoint string) (conn net.Conn, err error) {
		err = l.call(ctx, brokerTimeout, func(ctx context.Context, c rpcconnect.BrokerClient) error {
			conn, err = brokerlink.Inject(ctx, c, l.claim, endpoint)
			return err
		})
		if r := refused(err); r != nil {
			return nil, tunnel.DeniedError(r.Error())
		}
		return conn, err
	})
}

// keep renews until the attempt is over. A renewal that fails may work the next time; without
// any, the sandbox stops by itself.
func (l *lent) keep(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for late := time.Since(l.since) > renewEvery/2; ; late = false { // what is in it may have been fetched for long
		if !late {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		err := l.renew(ctx)
		switch r := refused(err); {
		case err == nil || ctx.Err() != nil:
		case r != nil && r.Reason == "changed": // it will never be renewed
			l.end(l.fault(ctx, err))
			return
		case r != nil && slices.Contains([]string{"revoked", "worker", "sandbox", "fenced"}, r.Reason):
			return
		default:
			l.h.w.log.WarnContext(ctx, "secrets were not renewed", "sandbox", l.b.id, "error", err)
		}
	}
}

// ask puts what was found on its way out into the ledger. A sandbox that has ended does not say any more, and one whose
// secrets are revoked is not asked.
func (l *lent) ask(ctx context.Context) {
	if l.revoked.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), foundTimeout)
	defer cancel()
	counts, err := l.b.sb.Secrets().Found(ctx)
	if err != nil {
		l.h.w.log.DebugContext(ctx, "what was redacted is not known", "sandbox", l.b.id, "error", err)
		return
	}
	l.b.used.found(counts, l.listed)
}

// looks returns look; nil without secrets.
func (l *lent) looks(ctx context.Context) func([]byte) {
	if l == nil {
		return nil
	}
	return func(text []byte) { l.look(ctx, text) }
}

// look looks through what has left the sandbox for keys that it did not know. It only says so: what looks like a key may
// be what the step is for.
func (l *lent) look(ctx context.Context, text []byte) {
	if kinds := l.b.used.suspect(text); len(kinds) > 0 {
		l.h.w.log.WarnContext(ctx, "what a step with secrets shows looks like a key", "step", l.b.step, "sandbox", l.b.id, "kinds", kinds)
	}
}

// leave ends the renewals: another worker may go on with them.
func (l *lent) leave() {
	l.stop()
	l.over.Wait()
}

// close ends the renewals, and what the broker has issued.
func (l *lent) close(ctx context.Context) {
	l.leave()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerTimeout)
	defer cancel()
	err := l.call(ctx, brokerTimeout, func(ctx context.Context, c rpcconnect.BrokerClient) error {
		_, err := c.Close(ctx, connect.NewRequest(&rpc.CloseRequest{Claim: l.claim}))
		return err
	})
	if err != nil {
		l.h.w.log.WarnContext(ctx, "the broker closes later what was issued", "sandbox", l.b.id, "error", err)
	}
}
