// Package seal is the broker's end of an envelope. See package envelope.
package seal

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/stepward/stepward/internal/envelope"
)

// A Sealer makes one envelope.
type Sealer struct {
	signer  ed25519.PrivateKey
	frame   envelope.Frame
	sender  *hpke.Sender
	renewal []byte
}

// New begins the envelope that answers a hello. Nothing secret is in it yet: what has to
// be on record before there is can be written between New and [Sealer.Seal].
func New(signer ed25519.PrivateKey, hello []byte, h envelope.Head) (*Sealer, error) {
	said, err := envelope.ReadHello(hello)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(said.Versions, envelope.Version) {
		return nil, fmt.Errorf("%w: the sandbox knows %v, the broker %d", envelope.ErrVersion, said.Versions, envelope.Version)
	}
	if h.ID == (envelope.ID{}) || h.Facts.Nonce == [32]byte{} {
		return nil, errors.New("envelope: without an id or a nonce")
	}
	public, err := hpke.MLKEM768X25519().NewPublicKey(said.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("hello: %w: %w", envelope.ErrMalformed, err)
	}
	enc, sender, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.AES256GCM(), h.Info(hello))
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	s := &Sealer{signer: signer, sender: sender, frame: envelope.Frame{Head: h, Hello: sha256.Sum256(hello), Enc: enc}}
	if s.renewal, err = sender.Export(envelope.RenewalContext, 32); err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	return s, nil
}

// RenewalKey is what renewals of the envelope are made with.
func (s *Sealer) RenewalKey() []byte { return s.renewal }

// Seal seals the items and signs the whole. It can be called once.
func (s *Sealer) Seal(items []envelope.Item) ([]byte, error) {
	if s.sender == nil {
		return nil, envelope.ErrUsed
	}
	sender := s.sender
	s.sender = nil
	f := &s.frame
	for _, item := range items {
		if err := item.Check(); err != nil {
			return nil, err
		}
		item.Value = nil
		f.Items = append(f.Items, envelope.Sealed{Item: item})
	}
	for i := range f.Items {
		padded := envelope.Pad(items[i].Value)
		var err error
		f.Items[i].Ciphertext, err = sender.Seal(f.Label(i), padded)
		clear(padded)
		if err != nil {
			return nil, fmt.Errorf("envelope: %w", err)
		}
	}
	f.Signature = [ed25519.SignatureSize]byte(ed25519.Sign(s.signer, f.Signed()))
	raw := f.Encode()
	if _, err := envelope.ReadFrame(raw); err != nil { // which the sandbox would say later
		return nil, err
	}
	return raw, nil
}
