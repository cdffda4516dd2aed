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
}

// Encode returns the hello's form.
func (h Hello) Encode() []byte {
	w := &writer{b: []byte(helloMagic)}
	w.bytes(h.Versions)
	w.bytes(h.PublicKey)
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
	if err := r.end(); err != nil {
		return Hello{}, fmt.Errorf("hello: %w", err)
	}
	return h, nil
}

// helloHash is how an envelope says which hello it answers.
func helloHash(raw []byte) [32]byte { return sha256.Sum256(raw) }
