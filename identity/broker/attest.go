package broker

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/envelope"
)

// An Attestor knows the sandboxes of one backend. It is used by several goroutines at a time.
type Attestor interface {
	// Attest returns nil if the secret, which is what a tool runner proves itself with, is of that sandbox, and of
	// nobody else, and if no worker can look into the sandbox. That the secret was sealed to this broker by who has
	// it, for this attempt and the key in its hello, has been checked. An error that is [ErrDenied] says no, any other
	// that it is not known now; so is what panics, or does not return in time. Neither has the secret in its text.
	Attest(ctx context.Context, sandbox string, secret []byte) error
}

// ProofKey returns the public key, in base64, that sandboxes seal their proofs to, of a broker with this
// [Config].Dir, in which the broker's own key is made if there is none. It has to reach tool runners by a way that no
// worker can change unseen.
func ProofKey(dir string) (string, error) {
	r, err := openRoot(dir)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(r.proofs.Public()), nil
}

// attest returns the standing that an attempt has with this hello: L2 if the worker is kept from the broker, and from
// the sandbox as well. unknown is why that could not be found out; it may be, later.
func (b *broker) attest(ctx context.Context, sealed envelope.Facts, hello []byte, at standing) (now standing, unknown error) {
	if at.level < identity.L1 {
		return at, nil
	}
	below := func(why string) standing { return standing{identity.L1, why} }
	h, err := envelope.ReadHello(hello)
	if err != nil || h.Backend == "" {
		return below("the sandbox has not proven that its key is its own: see Config.Attestors"), nil
	}
	a := b.Attestors[h.Backend]
	if a == nil {
		return below("the broker has no attestor for sandboxes of " + h.Backend), nil
	}
	secret, err := b.root.proofs.Open(h, sealed)
	if err != nil {
		return below("the proof of the sandbox is not of this attempt and key"), nil
	}
	defer clear(secret)
	ctx, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	if err := attested(ctx, a, sealed.Sandbox, secret); err != nil {
		err = outward(err, secret)
		if errors.Is(err, ErrDenied) {
			return below("the sandbox is not attested: " + err.Error()), nil
		}
		return below("the sandbox could not be attested: " + err.Error()), err
	}
	return standing{level: identity.L2}, nil
}

// attested asks an attestor, whatever it does. One that does not return has said nothing when ctx is done.
func attested(ctx context.Context, a Attestor, sandbox string, secret []byte) error {
	secret = slices.Clone(secret)
	said := make(chan error, 1)
	go func() {
		err := errors.New("it ended its goroutine")
		defer func() {
			if p := recover(); p != nil {
				err = panicked(p)
			}
			clear(secret)
			said <- err
		}()
		err = a.Attest(ctx, sandbox, secret)
	}()
	select {
	case err := <-said:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the attestor did not answer in time: %w", ctx.Err())
	}
}
