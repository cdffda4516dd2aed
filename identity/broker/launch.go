package broker

import (
	"context"
	"crypto/hmac"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/launch"
)

// launched attests the sandboxes that brokers with this key have made, and gives them what they prove themselves
// with. It is of the sandbox's id alone, so that any of the brokers knows it, also after a restart.
type launched struct {
	*root
	backend string
	exposed string // why workers may be able to use the engine that makes them; empty: they are not
}

// launched is what attests the sandboxes that this broker makes.
func (b *broker) launched() launched { return launched{b.root, b.Sandboxes.Name(), b.exposed()} }

func (l launched) witness(id string) envelope.Witness {
	secret := mac(l.launch, []byte(l.backend), []byte(id))
	return envelope.Witness{Backend: l.backend, Secret: []byte(hex.EncodeToString(secret)), Broker: l.proofs.Public()}
}

// Attest implements Attestor.
func (l launched) Attest(_ context.Context, sandbox string, secret []byte) error {
	if l.exposed != "" {
		return fmt.Errorf("%w: %s", ErrDenied, l.exposed)
	}
	if !hmac.Equal(secret, l.witness(sandbox).Secret) {
		return fmt.Errorf("%w: no broker of this key has made it", ErrDenied)
	}
	return nil
}

// launches adds the way to the sandboxes that this broker makes, if it does.
func (b *broker) launches(ctx context.Context, rest http.Handler) http.Handler {
	if b.Sandboxes == nil {
		return rest
	}
	mux := http.NewServeMux()
	mux.Handle("/", rest)
	mux.Handle(launch.Path, &launch.Handler{
		Backend: b.Sandboxes, Installation: b.installation, Schema: b.q.Schema, Images: b.Images, Witness: b.launched().witness, Admit: b.admit, Done: ctx,
	})
	return mux
}

// admit makes the connection of a call one to a sandbox, if there is a place among those: in the share of the sandbox's
// tenant, or of the worker if it is nobody's yet.
func (b *broker) admit(ctx context.Context, sandbox string) error {
	v := visitorOf(ctx)
	if v == nil {
		return errors.New("broker: a connection came in by another door")
	}
	var tenant string
	who := v.shares()
	switch err := b.Pool.QueryRow(ctx, b.q.SandboxTenant, sandbox).Scan(&tenant); {
	case err == nil:
		who = []string{tenantShare(tenant)}
	case !errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("broker: read whose sandbox it is: %w", err)
	}
	return v.sit(&b.dials, who)
}

// engine is the socket of the engine that makes the broker's sandboxes; empty: there is none.
func (b *broker) engine() string {
	if s, ok := b.Sandboxes.(interface{ Socket() string }); ok {
		return s.Socket()
	}
	return ""
}

// exposed is why workers may be able to use that engine, whatever its socket; empty: they are not.
func (b *broker) exposed() string {
	if s, ok := b.Sandboxes.(interface{ Exposed() string }); ok {
		return s.Exposed()
	}
	return ""
}
