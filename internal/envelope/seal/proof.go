package seal

import (
	"crypto/hpke"
	"fmt"

	"github.com/stepward/stepward/internal/envelope"
)

// A ProofKey opens the proofs of hellos.
type ProofKey struct{ private hpke.PrivateKey }

// NewProofKey derives the key from 32 secret bytes.
func NewProofKey(seed []byte) (ProofKey, error) {
	private, err := hpke.MLKEM768X25519().DeriveKeyPair(seed)
	return ProofKey{private}, err
}

// Public is what sandboxes seal their proofs to.
func (k ProofKey) Public() []byte { return k.private.PublicKey().Bytes() }

// Open returns the secret of the witness whose proof a hello has. An error says that the proof is not about this
// hello and these facts, or not for this broker.
func (k ProofKey) Open(h envelope.Hello, f envelope.Facts) ([]byte, error) {
	secret, err := hpke.Open(k.private, hpke.HKDFSHA256(), hpke.AES256GCM(), h.ProofInfo(f), h.Proof)
	if err != nil {
		return nil, fmt.Errorf("%w: the proof: %w", envelope.ErrSealed, err)
	}
	return secret, nil
}
