package docker

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/envelope/seal"
	"github.com/stepward/stepward/internal/launch"
	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// What a tool runner proves itself with is in the proofs of its hellos, sealed, and nowhere that a command could find
// it, nor whoever asks the engine. The control is a command beside it that has the same.
func TestWitness(t *testing.T) {
	for name, engine := range map[string]func(*testing.T) *Backend{"socket": backend, "exec": backend, "gvisor": gvisor} {
		t.Run(name, func(t *testing.T) {
			b := engine(t)
			b.noBind = name == "exec"
			t.Cleanup(func() { b.Close() })
			key, err := seal.NewProofKey(bytes.Repeat([]byte{3}, 32))
			if err != nil {
				t.Fatal(err)
			}
			const secret = "canary-of-a-witness"
			ctx := launch.With(layers.Without(t.Context(), layers.Landlock), envelope.Witness{Backend: Name, Secret: []byte(secret), Broker: key.Public()})
			s, err := sandbox.Start(ctx, b, sandbox.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Destroy(context.Background()); err != nil {
					t.Error(err)
				}
			})
			const program = "/workspace/probe" // one that can be read, as its memory then is
			data, err := os.ReadFile(sandboxtest.BuildProbe(t))
			if err == nil {
				err = s.WriteFile(t.Context(), program, data, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
			shown := b.shows(t, s.ID())
			for _, form := range []string{secret, hex.EncodeToString([]byte(secret))} {
				if bytes.Contains(shown, []byte(form)) {
					t.Errorf("the engine tells it")
				}
			}
			search := func() bool {
				// Without Landlock commands can look into each other, and only the runner's own means keep it apart.
				out, err := s.Command(program, "probe:search", secret[1:]).Output(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return string(out) == "yes"
			}
			if search() {
				t.Error("a command found it")
			}
			if out, err := s.Command(program, "probe:env").Output(t.Context()); err != nil || bytes.Contains(out, []byte("WITNESS")) {
				t.Errorf("a command has %q, %v", out, err)
			}
			facts := envelope.Facts{Tenant: "acme", Run: 1, Sandbox: s.ID(), Nonce: [32]byte{1}}
			hello, err := s.Secrets().Key(t.Context(), facts.Encode(), make([]byte, 32))
			if name == "gvisor" && errors.Is(err, sandbox.ErrSecret) {
				return // commands could read the runner, which takes no secrets then, and has not read that one
			}
			if err != nil {
				t.Fatal(err)
			}
			h, err := envelope.ReadHello(hello)
			if err != nil || h.Backend != Name {
				t.Fatalf("got %q, %v", h.Backend, err)
			}
			if got, err := key.Open(h, facts); err != nil || string(got) != secret {
				t.Errorf("it proves %q, %v", got, err)
			}
			hold := s.Command(program, "probe:hold-secret", "TOKEN")
			hold.Env = []string{"TOKEN=" + secret}
			begun, w := io.Pipe()
			hold.Stdout = w
			if err := hold.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(begun, make([]byte, len("true"))); err != nil {
				t.Fatal(err)
			}
			if !search() {
				t.Error("the search does not find what can be found")
			}
		})
	}
}
