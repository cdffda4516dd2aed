// Package payload turns the values of users into what Postgres holds, and back.
//
// A value is JSON. With a codec it is stored encoded, and one that is large is
// stored apart, in table blob or in a store of the application, with a reference
// in its place. The first byte tells: JSON begins with none of those here. So
// values from before a codec, a key or a store was configured stay readable.
package payload

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/db"
)

// A Codec is workflow.Codec.
type Codec interface {
	Encode(ctx context.Context, plain []byte) (keyID string, data []byte, err error)
	Decode(ctx context.Context, keyID string, data []byte) ([]byte, error)
}

// The first byte of what is not JSON.
const (
	kindCodec  = 1 + iota // length of the key id, key id, data
	kindHashed            // the same, and the data begin with 8 bytes of a hash
	kindRow               // a reference to a row of table blob: size, SHA-256, key
	kindStore             // a reference to the application's store
)

// Inline is how many bytes a stored value has at most that is not kept apart.
const Inline = 64 << 10

// MaxBytes is the highest limit of a value that can be configured: each is in
// memory as a whole, several times over while it is stored.
const MaxBytes = 64 << 20

// A Box seals and opens. A nil Box, and one of which all is nil, changes nothing
// of small values.
type Box struct {
	Codec Codec
	Store Store // of large values; nil: rows of table blob
	Pool  *pgxpool.Pool
	Q     *db.Queries

	tx pgx.Tx // of the application: see In
}

// In returns a Box for what is written in a transaction of the application: it
// writes rows of table blob there. What a store gets has its row before, durably,
// and that is written through the pool.
func (b *Box) In(tx pgx.Tx) *Box {
	in := *b
	in.tx = tx
	return &in
}

// Plain reports whether nothing is to be done to a value.
func (b *Box) Plain(v []byte) bool {
	return b == nil || len(v) == 0 || b.Codec == nil && (len(v) <= Inline || b.Pool == nil)
}

// Seal returns what is stored for a value: itself, its encoded form, or a
// reference to what was written apart, which is durable then. An empty value
// stays empty.
func (b *Box) Seal(ctx context.Context, v []byte) ([]byte, error) {
	if b.Plain(v) {
		return v, nil
	}
	sealed, err := b.SealInline(ctx, v)
	if err != nil {
		return nil, err
	}
	return b.apart(ctx, sealed)
}

// SealInline is Seal of a value that is known to be small.
func (b *Box) SealInline(ctx context.Context, v []byte) ([]byte, error) {
	if b == nil || b.Codec == nil || len(v) == 0 {
		return v, nil
	}
	return b.encode(ctx, kindCodec, v)
}

// SealHashed is Seal of a value with the hash of another beside it. Without a
// codec the hash is returned; with one it is sealed together with the value, as
// a hash tells who guesses right, and 0 is returned.
func (b *Box) SealHashed(ctx context.Context, v []byte, hash uint64) (stored []byte, outside uint64, err error) {
	if b.Plain(v) || b.Codec == nil {
		stored, err = b.Seal(ctx, v)
		return stored, hash, err
	}
	sealed, err := b.encode(ctx, kindHashed, append(binary.BigEndian.AppendUint64(nil, hash), v...))
	if err != nil {
		return nil, 0, err
	}
	stored, err = b.apart(ctx, sealed)
	return stored, 0, err
}

func (b *Box) encode(ctx context.Context, kind byte, v []byte) ([]byte, error) {
	keyID, data, err := b.Codec.Encode(ctx, v)
	if err != nil {
		return nil, fmt.Errorf("codec: %w", err)
	}
	if len(keyID) > 255 {
		return nil, permanent{fmt.Errorf("codec: key id of %d bytes, the limit is 255", len(keyID))}
	}
	out := make([]byte, 0, 2+len(keyID)+len(data))
	out = append(out, kind, byte(len(keyID)))
	out = append(out, keyID...)
	return append(out, data...), nil
}

func (b *Box) apart(ctx context.Context, sealed []byte) ([]byte, error) {
	if len(sealed) <= Inline || b.Pool == nil {
		return sealed, nil
	}
	return b.put(ctx, sealed)
}

// Open returns the value that is stored. Its error is an *OpenError.
func (b *Box) Open(ctx context.Context, stored []byte) ([]byte, error) {
	v, _, err := b.OpenHashed(ctx, stored)
	return v, err
}

// OpenHashed returns the hash as well that is sealed with the value, or 0.
func (b *Box) OpenHashed(ctx context.Context, stored []byte) (v []byte, hash uint64, err error) {
	if len(stored) == 0 || stored[0] > kindStore {
		return stored, 0, nil
	}
	if b == nil {
		b = new(Box)
	}
	if stored[0] == kindRow || stored[0] == kindStore {
		if stored, err = b.get(ctx, stored); err != nil {
			return nil, 0, err
		}
		if len(stored) == 0 || stored[0] != kindCodec && stored[0] != kindHashed {
			return stored, 0, nil
		}
	}
	return b.decode(ctx, stored)
}

func (b *Box) decode(ctx context.Context, stored []byte) (v []byte, hash uint64, err error) {
	keyID, data, ok := split(stored)
	switch {
	case !ok:
		return nil, 0, &OpenError{Err: permanent{errCut}}
	case b.Codec == nil:
		return nil, 0, &OpenError{KeyID: keyID, Err: permanent{errors.New("no codec is configured")}}
	}
	if v, err = b.Codec.Decode(ctx, keyID, data); err != nil {
		return nil, 0, &OpenError{KeyID: keyID, Err: err}
	}
	if stored[0] == kindHashed {
		if len(v) < 8 {
			return nil, 0, &OpenError{KeyID: keyID, Err: permanent{errCut}}
		}
		hash, v = binary.BigEndian.Uint64(v), v[8:]
	}
	return v, hash, nil
}

var errCut = errors.New("the stored value is cut off")

func split(stored []byte) (keyID string, data []byte, ok bool) {
	if len(stored) < 2 || len(stored) < 2+int(stored[1]) {
		return "", nil, false
	}
	n := 2 + int(stored[1])
	return string(stored[2:n]), stored[n:], true
}

// Sealed reports whether a stored value is not JSON, and the id of the key that
// a codec used for it, when that is at hand.
func Sealed(stored []byte) (keyID string, ok bool) {
	if len(stored) == 0 || stored[0] > kindStore {
		return "", false
	}
	if stored[0] == kindCodec || stored[0] == kindHashed {
		keyID, _, _ = split(stored)
	}
	return keyID, true
}

// An OpenError reports a stored value that cannot be opened here and now.
type OpenError struct {
	KeyID string // of the codec, if that was the trouble
	Blob  string // key of the blob, if that was
	Err   error
}

func (e *OpenError) Error() string {
	switch {
	case e.Blob != "":
		return fmt.Sprintf("the value is kept as blob %s: %v", e.Blob, e.Err)
	case e.KeyID != "":
		return fmt.Sprintf("the value is encoded with key %q: %v", e.KeyID, e.Err)
	}
	return e.Err.Error()
}

func (e *OpenError) Unwrap() error { return e.Err }

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func (permanent) Permanent() bool { return true }

// Permanent reports whether an error of a codec or a store is marked as one that
// repetition does not cure: see workflow.Permanent.
func Permanent(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p) && p.Permanent()
}
