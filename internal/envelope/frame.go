package envelope

import (
	"crypto/sha256"
	"fmt"
	"time"
)

// RenewalContext is what the key of renewals is exported from HPKE with.
const RenewalContext = "stepward renewal"

const (
	magic     = "stepward envelope"
	signatory = "stepward envelope signature"

	sizeSignature = 64
	maxEnc        = 4 << 10
	maxLabel      = (4 + maxCommands) * (4 + maxName)
)

// A Frame is an envelope that is not opened.
type Frame struct {
	Head  Head
	Hello [32]byte // hash of the hello that it answers
	Enc   []byte   // HPKE's encapsulated key
	Items []Sealed

	Signature [sizeSignature]byte
}

// Sealed is an item of which the value is ciphertext.
type Sealed struct {
	Item
	Ciphertext []byte
}

// Label returns what the item's value is authenticated with.
func (f *Frame) Label(i int) []byte { return f.Items[i].label(i, len(f.Items)) }

// Info is what the key of the items is derived with: all that is known before they are.
func (h Head) Info(hello []byte) []byte {
	hash := helloHash(hello)
	w := &writer{}
	w.head(h, hash)
	return w.b
}

func (w *writer) head(h Head, hello [32]byte) {
	w.raw([]byte(magic))
	w.u8(Version)
	w.raw(h.ID[:])
	w.facts(h.Facts)
	w.u64(uint64(h.Terms.Freeze))
	w.u64(uint64(h.Terms.Kill))
	w.u64(uint64(h.Epoch))
	w.raw(hello[:])
}

// signed is what the signature is about: all of the envelope.
func (f *Frame) signed() []byte {
	w := &writer{}
	w.head(f.Head, f.Hello)
	w.bytes(f.Enc)
	h := sha256.New()
	for i := range f.Items {
		c := &writer{}
		c.bytes(f.Label(i))
		c.bytes(f.Items[i].Ciphertext)
		h.Write(c.b)
	}
	w.u32(len(f.Items))
	w.raw(h.Sum(nil))
	return w.b
}

// Signed returns what the broker signs.
func (f *Frame) Signed() []byte { return append([]byte(signatory), f.signed()...) }

// Encode returns the envelope's form.
func (f *Frame) Encode() []byte {
	w := &writer{b: f.signed()}
	w.raw(f.Signature[:])
	for i := range f.Items {
		w.bytes(f.Label(i))
		w.bytes(f.Items[i].Ciphertext)
	}
	return w.b
}

// ReadFrame reads an envelope. Nothing of it is known to be true then.
func ReadFrame(raw []byte) (*Frame, error) {
	r := &reader{b: raw}
	if string(r.take(len(magic))) != magic {
		return nil, ErrMalformed
	}
	if v := r.u8(); !r.failed && v != Version {
		return nil, fmt.Errorf("%w: it has version %d", ErrVersion, v)
	}
	f := &Frame{}
	r.fixed(f.Head.ID[:])
	f.Head.Facts = r.facts()
	f.Head.Terms = Terms{Freeze: time.Duration(r.u64()), Kill: time.Duration(r.u64())}
	f.Head.Epoch = int64(r.u64())
	r.fixed(f.Hello[:])
	f.Enc = r.bytes(maxEnc)
	count := r.count(MaxItems)
	var hash [32]byte
	r.fixed(hash[:])
	r.fixed(f.Signature[:])
	names := map[string]bool{}
	all := sha256.New()
	for i := range count {
		label, sealed := r.bytes(maxLabel), r.bytes(MaxValue+2*step)
		if r.failed {
			break
		}
		item, err := readLabel(label, i, count)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		if names[item.Name] {
			return nil, fmt.Errorf("%w: secret %q is there twice", ErrMalformed, item.Name)
		}
		names[item.Name] = true
		f.Items = append(f.Items, Sealed{Item: item, Ciphertext: sealed})
		c := &writer{}
		c.bytes(label)
		c.bytes(sealed)
		all.Write(c.b)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	if [32]byte(all.Sum(nil)) != hash {
		return nil, fmt.Errorf("%w: its items are not those that were signed", ErrSignature)
	}
	return f, f.Head.Terms.check()
}

// Answers reports whether the envelope answers the hello.
func (f *Frame) Answers(hello []byte) bool { return f.Hello == helloHash(hello) }
