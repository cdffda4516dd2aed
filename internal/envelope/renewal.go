package envelope

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
)

const renewalMagic = "stepward renewal 1"

// A State is what the broker says of an envelope.
type State byte

const (
	Renewed State = 1 + iota // it may be used for another while
	Revoked                  // it must not be used any more
)

// A Renewal is the broker's word that an envelope may still be used. It counts from
// when its challenge was made, so that one which was held back is worth less.
type Renewal struct {
	Envelope  ID
	Counter   uint64 // the time of the database, for the record: that one is new its challenge says
	Challenge [32]byte
	Epoch     int64 // of the revocations that were looked at
	State     State
}

// Encode returns the renewal's form, authenticated with the key that both ends have.
func (r Renewal) Encode(key []byte) []byte {
	w := &writer{b: []byte(renewalMagic)}
	w.raw(r.Envelope[:])
	w.u64(r.Counter)
	w.raw(r.Challenge[:])
	w.u64(uint64(r.Epoch))
	w.u8(byte(r.State))
	w.raw(mac(key, w.b))
	return w.b
}

// ReadRenewal reads a renewal and checks it with the key of its envelope; nil if there
// is no such envelope.
func ReadRenewal(raw []byte, key func(ID) []byte) (Renewal, error) {
	r := &reader{b: raw}
	var n Renewal
	ours := string(r.take(len(renewalMagic))) == renewalMagic
	r.fixed(n.Envelope[:])
	n.Counter = r.u64()
	r.fixed(n.Challenge[:])
	n.Epoch = int64(r.u64())
	n.State = State(r.u8())
	var sum [sha256.Size]byte
	r.fixed(sum[:])
	if err := r.end(); err != nil || !ours {
		return Renewal{}, fmt.Errorf("renewal: %w", ErrMalformed)
	}
	k := key(n.Envelope)
	if k == nil || !hmac.Equal(sum[:], mac(k, raw[:len(raw)-len(sum)])) {
		return Renewal{}, fmt.Errorf("renewal: %w", ErrSignature)
	}
	if n.State != Renewed && n.State != Revoked {
		return Renewal{}, fmt.Errorf("renewal: %w: state %d", ErrMalformed, n.State)
	}
	return n, nil
}

func mac(key, b []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(b)
	return h.Sum(nil)
}
