// Package open is the sandbox's end of an envelope. See package envelope.
package open

import (
	"crypto/ed25519"
	"crypto/hpke"
	"fmt"
	"sync"

	"github.com/stepward/stepward/internal/envelope"
)

// A Key is made for one attempt, and opens one envelope.
type Key struct {
	facts  envelope.Facts
	broker ed25519.PublicKey
	hello  []byte

	mu      sync.Mutex
	private hpke.PrivateKey // nil: used
}

// NewKey makes a key for the facts. What it opens has to be signed by the broker. Its hello has the proof of a witness.
func NewKey(f envelope.Facts, broker []byte, w envelope.Witness) (*Key, error) {
	if len(broker) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: the broker's key has %d bytes", envelope.ErrMalformed, len(broker))
	}
	private, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	h := envelope.Hello{Versions: []byte{envelope.Version}, PublicKey: private.PublicKey().Bytes(), Backend: w.Backend}
	if w.Backend != "" {
		if h.Proof, err = prove(w, h.ProofInfo(f)); err != nil {
			return nil, err
		}
	}
	return &Key{facts: f, broker: broker, hello: h.Encode(), private: private}, nil
}

// prove seals the secret of a witness to the broker.
func prove(w envelope.Witness, info []byte) ([]byte, error) {
	if !w.Fits() {
		return nil, fmt.Errorf("%w: a witness of %d bytes", envelope.ErrMalformed, len(w.Secret))
	}
	public, err := hpke.MLKEM768X25519().NewPublicKey(w.Broker)
	if err != nil {
		return nil, fmt.Errorf("%w: the broker's key for proofs: %w", envelope.ErrMalformed, err)
	}
	proof, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), info, w.Secret)
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	return proof, nil
}

// Hello is what the broker seals to.
func (k *Key) Hello() []byte { return k.hello }

// Open opens an envelope: all of it, or nothing. The key is used then, also when it fails.
func (k *Key) Open(raw []byte) (o envelope.Opened, err error) {
	k.mu.Lock()
	private := k.private
	k.private = nil
	k.mu.Unlock()
	if private == nil {
		return o, envelope.ErrUsed
	}
	f, err := envelope.ReadFrame(raw)
	if err != nil {
		return o, err
	}
	if !ed25519.Verify(k.broker, f.Signed(), f.Signature[:]) {
		return o, envelope.ErrSignature
	}
	if what := f.Head.Facts.Differs(k.facts); what != "" {
		return o, fmt.Errorf("%w: it has another %s", envelope.ErrFacts, what)
	}
	if !f.Answers(k.hello) {
		return o, fmt.Errorf("%w: it answers another hello", envelope.ErrFacts)
	}
	recipient, err := hpke.NewRecipient(f.Enc, private, hpke.HKDFSHA256(), hpke.AES256GCM(), f.Head.Info(k.hello))
	if err != nil {
		return o, fmt.Errorf("%w: %w", envelope.ErrSealed, err)
	}
	o.Head = f.Head
	if o.RenewalKey, err = recipient.Export(envelope.RenewalContext, 32); err != nil {
		return envelope.Opened{}, fmt.Errorf("%w: %w", envelope.ErrSealed, err)
	}
	for i := range f.Items {
		padded, err := recipient.Open(f.Label(i), f.Items[i].Ciphertext)
		item := f.Items[i].Item
		if err == nil {
			item.Value, err = envelope.Unpad(padded)
		}
		if err == nil {
			o.Items = append(o.Items, item)
			err = item.Check()
		}
		if err != nil {
			o.Wipe()
			return envelope.Opened{}, fmt.Errorf("%w: item %d: %w", envelope.ErrSealed, i, err)
		}
	}
	return o, nil
}
