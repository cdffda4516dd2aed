// Package sealed encrypts the values of runs with keys that Postgres never
// sees: a workflow.Codec of XAES-256-GCM, which is AES-256-GCM with nonces long
// enough to be random for as many values as there are, by the standard library.
//
// Who reads the database, its backups or its log learns no input, output, signal
// or error: only names, times, sizes and the ids of keys. Who can write to it can
// still delete values, or put one in the place of another of the same key.
//
// To rotate, first give all clients and workers the new key after the old one;
// then put it first; drop the old one when no run refers to it any more.
package sealed

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/stepward/stepward/workflow"
)

// A Key is a secret with the name that is stored beside what it encrypts. It
// cannot be printed.
type Key struct {
	ID     string // 1 to 255 bytes
	Secret []byte // 32 random bytes
}

// Format implements fmt.Formatter.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "sealed.Key("+k.ID+")") }

// LogValue implements slog.LogValuer.
func (k Key) LogValue() slog.Value { return slog.StringValue("sealed.Key(" + k.ID + ")") }

// MarshalText implements encoding.TextMarshaler.
func (k Key) MarshalText() ([]byte, error) { return []byte("sealed.Key(" + k.ID + ")"), nil }

// A KeyError reports a key that the ring does not have.
type KeyError struct{ ID string }

func (e *KeyError) Error() string { return fmt.Sprintf("sealed: no key %q", e.ID) }

// A Codec is a ring of keys.
type Codec struct {
	first string
	keys  map[string]key
}

// New makes a codec. The first key encrypts; all decrypt.
func New(keys ...Key) (*Codec, error) {
	if len(keys) == 0 {
		return nil, errors.New("sealed: no keys")
	}
	c := &Codec{first: keys[0].ID, keys: make(map[string]key)}
	for _, k := range keys {
		switch _, twice := c.keys[k.ID]; {
		case k.ID == "" || len(k.ID) > 255:
			return nil, fmt.Errorf("sealed: the id of a key has %d bytes, want 1 to 255", len(k.ID))
		case len(k.Secret) != 32:
			return nil, fmt.Errorf("sealed: key %q has %d bytes, want 32", k.ID, len(k.Secret))
		case twice:
			return nil, fmt.Errorf("sealed: two keys have the id %q", k.ID)
		}
		block, err := aes.NewCipher(k.Secret)
		if err != nil {
			return nil, fmt.Errorf("sealed: key %q: %w", k.ID, err)
		}
		c.keys[k.ID] = newKey(block)
	}
	return c, nil
}

// Encode implements workflow.Codec.
func (c *Codec) Encode(_ context.Context, plain []byte) (keyID string, data []byte, err error) {
	nonce := make([]byte, nonceSize, nonceSize+len(plain)+overhead)
	rand.Read(nonce) // never fails
	gcm, err := c.keys[c.first].derive(nonce)
	if err != nil {
		return "", nil, workflow.Permanent(fmt.Errorf("sealed: %w", err))
	}
	return c.first, gcm.Seal(nonce, nonce[nonceSize/2:], plain, []byte(c.first)), nil
}

// Decode implements workflow.Codec. Its error is permanent: a *[KeyError], or
// that of data which no such key has encrypted.
func (c *Codec) Decode(_ context.Context, keyID string, data []byte) ([]byte, error) {
	k, ok := c.keys[keyID]
	if !ok {
		return nil, workflow.Permanent(&KeyError{keyID})
	}
	if len(data) < nonceSize+overhead {
		return nil, workflow.Permanent(errors.New("sealed: the data are cut off"))
	}
	gcm, err := k.derive(data[:nonceSize])
	if err == nil {
		data, err = gcm.Open(nil, data[nonceSize/2:nonceSize], data[nonceSize:], []byte(keyID))
	}
	if err != nil {
		return nil, workflow.Permanent(fmt.Errorf("sealed: key %q: %w", keyID, err))
	}
	return data, nil
}

const (
	nonceSize = 24
	overhead  = 16
)

// key derives the keys of XAES-256-GCM (c2sp.org/XAES-256-GCM): half of the nonce
// goes into a key of its own, and half into AES-GCM.
type key struct {
	block cipher.Block
	k1    [aes.BlockSize]byte
}

func newKey(block cipher.Block) key {
	k := key{block: block}
	block.Encrypt(k.k1[:], k.k1[:])
	var high byte
	for i := len(k.k1) - 1; i >= 0; i-- {
		high, k.k1[i] = k.k1[i]>>7, k.k1[i]<<1|high
	}
	k.k1[len(k.k1)-1] ^= high * 0b10000111
	return k
}

func (k key) derive(nonce []byte) (cipher.AEAD, error) {
	derived := make([]byte, 2*aes.BlockSize)
	for i := range 2 {
		half := derived[i*aes.BlockSize:][:aes.BlockSize]
		copy(half, []byte{0, byte(i + 1), 'X', 0})
		copy(half[4:], nonce[:12])
		for j := range half {
			half[j] ^= k.k1[j]
		}
		k.block.Encrypt(half, half)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
