package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
)

var (
	// ErrSecret reports secrets that were refused: to a command that may not have what it
	// asks for, or to a sandbox, an envelope that is not for it. The text says which.
	ErrSecret = errors.New("sandbox: secret refused")

	// ErrLapsed reports that nothing is started, since the sandbox's secrets were not
	// renewed in time. What runs in it is stopped until they are.
	ErrLapsed = errors.New("sandbox: secrets have lapsed")

	// ErrAlone reports a command that was not started as another one runs, and one of
	// them has secrets: without Landlock nothing keeps two of a sandbox apart.
	ErrAlone = errors.New("sandbox: a command with secrets runs alone here")
)

// Secrets brings secrets into a sandbox. It is for workers: what passes here is sealed
// between the tool runner and the broker of identities, and a worker can only carry it.
type Secrets struct{ s *Sandbox }

// Secrets returns the sandbox's way to get secrets. A backend whose sandboxes cannot be
// dialled has none: all that its methods return is [errors.ErrUnsupported].
func (s *Sandbox) Secrets() Secrets { return Secrets{s} }

// Key has the tool runner make the key of one attempt. facts and broker are what the
// broker said of the attempt and of itself; what is returned is for the broker to seal
// to. The first broker that a sandbox hears of is its only one.
func (k Secrets) Key(ctx context.Context, facts, broker []byte) (hello []byte, err error) {
	err = k.call(ctx, "make a key for", func(c rpcconnect.RunnerClient) error {
		r, err := c.Key(ctx, connect.NewRequest(&rpc.KeyRequest{Facts: facts, Broker: broker}))
		if err == nil {
			hello = r.Msg.Hello
		}
		return err
	})
	return hello, err
}

// Deliver hands over the envelope that was sealed to the last key. When it returns nil
// the sandbox has what was in it; after an [ErrSecret] it has nothing of it, and the key
// is used up all the same. A value that is not in the envelope itself, the sandbox has from its store meanwhile; an
// [UnwrapError] is one that it could not have.
func (k Secrets) Deliver(ctx context.Context, envelope []byte) error {
	var refused *UnwrapError
	err := k.call(ctx, "deliver", func(c rpcconnect.RunnerClient) error {
		_, err := c.Deliver(ctx, connect.NewRequest(&rpc.DeliverRequest{Envelope: envelope}))
		refused = unwrapError(err)
		return err
	})
	if refused != nil && errors.Is(err, ErrSecret) {
		refused.Err = err
		return refused
	}
	return err
}

// An UnwrapError reports a value that was kept for the sandbox alone, and that it could not have. It is an [ErrSecret].
type UnwrapError struct {
	Name string // of the secret, as the sandbox says it
	Lost bool   // somebody else may have had it: it is to be rotated. Else it is not what a secret may be
	Err  error
}

func (e *UnwrapError) Error() string {
	if e.Lost {
		return e.Err.Error() + ": rotate it"
	}
	return e.Err.Error()
}

func (e *UnwrapError) Unwrap() error { return e.Err }

// unwrapError is what an answer says of a value that could not be had, nil if it says nothing of the kind.
func unwrapError(err error) *UnwrapError {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return nil
	}
	for _, d := range ce.Details() {
		v, err := d.Value()
		if r, ok := v.(*rpc.Refusal); err == nil && ok && (r.Reason == "wrap" || r.Reason == "unresolved") {
			return &UnwrapError{Name: short(r.Name), Lost: r.Reason == "wrap"}
		}
	}
	return nil
}

// Route has connections of the sandbox to these endpoints, "host:port" in lower case, made by connect from now on, and
// by nothing else; where its [NetworkPolicy] allows them. What programs send there has to be TLS: it is not
// looked into.
func (k Secrets) Route(endpoints []string, connect func(ctx context.Context, endpoint string) (net.Conn, error)) {
	k.s.network.gate.SetRoutes(endpoints, connect)
}

// Challenge returns what the next renewals have to answer, of all envelopes that the
// sandbox has. Their time begins here, and not with [Secrets.Renew].
func (k Secrets) Challenge(ctx context.Context) (challenge []byte, err error) {
	err = k.call(ctx, "ask for a challenge", func(c rpcconnect.RunnerClient) error {
		r, err := c.Challenge(ctx, connect.NewRequest(&rpc.ChallengeRequest{}))
		if err == nil {
			challenge = r.Msg.Challenge
		}
		return err
	})
	return challenge, err
}

// Renew hands over what the broker says of an envelope. If that is that it must not be
// used any more, nothing runs in the sandbox when Renew returns.
func (k Secrets) Renew(ctx context.Context, renewal []byte) error {
	return k.call(ctx, "renew", func(c rpcconnect.RunnerClient) error {
		_, err := c.Prolong(ctx, connect.NewRequest(&rpc.ProlongRequest{Renewal: renewal}))
		return err
	})
}

// Forget has what was in an envelope overwritten, after all that was given some of it
// has been killed. An envelope that the sandbox does not have is no error.
func (k Secrets) Forget(ctx context.Context, id [16]byte) error {
	return k.call(ctx, "forget", func(c rpcconnect.RunnerClient) error {
		_, err := c.Forget(ctx, connect.NewRequest(&rpc.ForgetRequest{Envelope: id[:]}))
		return err
	})
}

// Found returns how often the value of each secret was found in what was about to leave
// the sandbox, by name and class of encodings ("raw", "base64"). It left without, or not at all.
func (k Secrets) Found(ctx context.Context) (counts map[string]map[string]int64, err error) {
	err = k.call(ctx, "ask what was found", func(c rpcconnect.RunnerClient) error {
		r, err := c.Found(ctx, connect.NewRequest(&rpc.FoundRequest{}))
		if err != nil {
			return err
		}
		counts = make(map[string]map[string]int64)
		for _, n := range r.Msg.Counts {
			if counts[n.Name] == nil {
				counts[n.Name] = make(map[string]int64)
			}
			counts[n.Name][n.Class] += n.N
		}
		return nil
	})
	return counts, err
}

func (k Secrets) call(ctx context.Context, what string, do func(rpcconnect.RunnerClient) error) error {
	if k.s.invoker != nil {
		return fmt.Errorf("sandbox: backend %s takes no secrets: %w", k.s.Backend(), errors.ErrUnsupported)
	}
	c, err := k.s.control.get(ctx)
	if err == nil {
		err = do(c)
	}
	if err == nil {
		return nil
	}
	if err = lost(ctx, err); connect.CodeOf(err) == connect.CodeInvalidArgument && !errors.Is(err, ErrLost) {
		return fmt.Errorf("%w: %s: %w", ErrSecret, what, said(err))
	}
	return fmt.Errorf("sandbox: secrets: %s: %w", what, err)
}

// said is what the tool runner said, without the code.
func said(err error) error {
	var ce *connect.Error
	if errors.As(err, &ce) {
		return errors.New(short(ce.Message()))
	}
	return err
}

// secretError tells of a command that was not started because of secrets, nil if err is
// about something else.
func secretError(command string, ce *connect.Error) error {
	for code, target := range map[connect.Code]error{
		connect.CodePermissionDenied:   ErrSecret,
		connect.CodeFailedPrecondition: ErrLapsed,
		connect.CodeAborted:            ErrAlone,
	} {
		if ce.Code() == code {
			return &CommandError{Command: command, Err: fmt.Errorf("%w: %s", target, short(ce.Message()))}
		}
	}
	return nil
}
