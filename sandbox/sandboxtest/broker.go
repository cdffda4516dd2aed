package sandboxtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/envelope/seal"
	"github.com/stepward/stepward/internal/runid"
	"github.com/stepward/stepward/sandbox"
)

// A broker seals secrets to sandboxes, without any store behind it.
type broker struct {
	private ed25519.PrivateKey
	facts   envelope.Facts
	keys    byte // that it had sandboxes make
}

func newBroker(run int64) *broker {
	_, private, _ := ed25519.GenerateKey(nil)
	return &broker{private: private, facts: envelope.Facts{
		Tenant: "acme", Workflow: "suite", Version: "1", Step: "part/secret#2", Run: run, Seq: 3, Attempt: 1, Sandbox: "sb",
	}}
}

func (b *broker) public() []byte { return b.private.Public().(ed25519.PublicKey) }

// step is the call of the attempt's own function.
func (b *broker) step(input string) sandbox.GuestStep {
	run := runid.Text(b.facts.Run)
	return sandbox.GuestStep{
		Workflow: b.facts.Workflow, Version: b.facts.Version, Step: "secret", RunID: run, Attempt: b.facts.Attempt,
		IdempotencyKey: run + "/" + b.facts.Step, Input: []byte(input),
	}
}

// A lease is an envelope that a sandbox has opened.
type lease struct {
	id  envelope.ID
	key []byte
}

// seal answers a hello.
func (b *broker) seal(t *testing.T, hello []byte, terms envelope.Terms, items ...envelope.Item) ([]byte, *lease) {
	t.Helper()
	l := &lease{}
	rand.Read(l.id[:])
	s, err := seal.New(b.private, hello, envelope.Head{ID: l.id, Facts: b.facts, Terms: terms})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.Seal(items)
	if err != nil {
		t.Fatal(err)
	}
	l.key = s.RenewalKey()
	return raw, l
}

// hello has the sandbox make a new key.
func (b *broker) hello(t *testing.T, s *sandbox.Sandbox) []byte {
	t.Helper()
	b.keys++
	b.facts.Epoch++ // as of another claim
	b.facts.Nonce = sha256.Sum256([]byte{b.keys})
	hello, err := s.Secrets().Key(bounded(t), b.facts.Encode(), b.public())
	if err != nil {
		t.Fatal(err)
	}
	return hello
}

// deliver brings items into the sandbox. With terms that are short for a slow machine
// it takes as often as needed.
func (b *broker) deliver(t *testing.T, s *sandbox.Sandbox, terms envelope.Terms, items ...envelope.Item) *lease {
	t.Helper()
	for deadline := time.Now().Add(limit); ; {
		raw, l := b.seal(t, b.hello(t, s), terms, items...)
		err := s.Secrets().Deliver(bounded(t), raw)
		if err == nil {
			return l
		}
		if !errors.Is(err, sandbox.ErrSecret) || terms == long || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// renew renews a lease, or revokes it.
func (l *lease) renew(t *testing.T, s *sandbox.Sandbox, state envelope.State) error {
	t.Helper()
	challenge, err := s.Secrets().Challenge(bounded(t))
	if err != nil {
		return err
	}
	r := envelope.Renewal{Envelope: l.id, Challenge: [32]byte(challenge), State: state}
	return s.Secrets().Renew(bounded(t), r.Encode(l.key))
}

// long are terms that no test waits for.
var long = envelope.Terms{Freeze: time.Hour, Kill: time.Hour}
