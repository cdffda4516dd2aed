package envelope

import (
	"crypto/sha256"
	"fmt"
	"slices"
)

const helloMagic = "stepward hello"

// A Hello is what a sandbox says to the broker: a key that is for one envelope.
type Hello struct {
	Versions  []byte // that the sandbox can open
	PublicKey []byte // of HPKE

	Backend string // whose attestor can tell what Proof is worth; empty: there is none
	Proof   []byte // of the sandbox, sealed to the broker: see Witness
}

// maxProof bounds a sealed proof.
const maxProof = 16 << 10

// Encode returns the hello's form.
func (h Hello) Encode() []byte {
	w := &writer{b: []byte(helloMagic)}
	w.bytes(h.Versions)
	w.bytes(h.PublicKey)
	w.bytes([]byte(h.Backend))
	w.bytes(h.Proof)
	return w.b
}

// A Witness is what a sandbox proves itself with: a secret that it has from who made it, and that no worker
// knows. It has each proof sealed for the broker alone, with all that the proof is about, so that none can be
// taken off one hello and put on another. The zero Witness proves nothing.
type Witness struct {
	Backend string
	Secret  []byte
	Broker  []byte // public key of HPKE, which no worker can have put there
}

// Fits reports whether the hello has room for its proof.
func (w Witness) Fits() bool {
	return len(w.Backend) <= maxName && len(w.Secret) > 0 && len(w.Secret) <= maxProof/2
}

// ProofInfo is what the proof in a hello is sealed with, for these facts. The proof itself does not matter.
func (h Hello) ProofInfo(f Facts) []byte {
	w := &writer{b: []byte("stepward proof")}
	w.u8(Version)
	w.facts(f)
	h.Proof = nil
	sum := sha256.Sum256(h.Encode())
	w.raw(sum[:])
	return w.b
}

// ReadHello reads a hello.
func ReadHello(raw []byte) (h Hello, err error) {
	r := &reader{b: raw}
	if string(r.take(len(helloMagic))) != helloMagic {
		return h, fmt.Errorf("hello: %w", ErrMalformed)
	}
	h.Versions = slices.Clone(r.bytes(64))
	h.PublicKey = slices.Clone(r.bytes(4 << 10))
	h.Backend = string(r.bytes(maxName))
	h.Proof = slices.Clone(r.bytes(maxProof))
	if err := r.end(); err != nil {
		return Hello{}, fmt.Errorf("hello: %w", err)
	}
	return h, nil
}

// helloHash is how an envelope says which hello it answers.
func helloHash(raw []byte) [32]byte { return sha256.Sum256(raw) }
