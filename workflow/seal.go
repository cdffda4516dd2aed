package workflow

import (
	"context"
	"fmt"
	"slices"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/payload"
)

// A Codec turns encoded values into what Postgres holds, and back: to encrypt
// them, or to compress them. It is applied to inputs and outputs of runs and
// steps, signals, and errors. Package sealed has one that encrypts.
//
// Clients and workers of a schema share one. It may be set, changed and unset at
// any time, as what is stored names its key, and what is stored without a codec
// stays readable: what Decode must know is every key id that is still in use. A
// run is parked as "undecodable" when its worker cannot decode a value, and tried
// again by the next worker that starts; a client gets a *[ValueError].
//
// An error may pass with time, and the call is repeated, for half a minute when a
// worker decodes and for as long as it holds the run when it encodes; one that is
// marked with [Permanent] may not. A Codec is used concurrently.
type Codec interface {
	// Encode returns the stored form of a value, and the id of the key that
	// Decode will need: up to 255 bytes, which are stored as they are.
	Encode(ctx context.Context, plain []byte) (keyID string, data []byte, err error)

	Decode(ctx context.Context, keyID string, data []byte) (plain []byte, err error)
}

// A BlobStore keeps values of more than 64 KiB outside of Postgres. Each has a
// key of its own, of letters, digits, "_" and "/", and never changes. It is
// written before what refers to it is committed; one whose commit never came is
// deleted after an hour, and the others when their runs are: by a worker that has
// the store.
//
// Clients and workers of a schema share one. A BlobStore is used concurrently.
// Its errors are treated as those of a [Codec] are. workflowtest.TestBlobStore
// says whether an implementation will do.
type BlobStore interface {
	// Put writes a value. It is durable on return. Putting the same again is
	// no error.
	Put(ctx context.Context, key string, data []byte) error

	// Get returns a value, or an error that wraps fs.ErrNotExist.
	Get(ctx context.Context, key string) ([]byte, error)

	// Delete removes a value. One that does not exist is no error.
	Delete(ctx context.Context, key string) error
}

// seal returns what is stored for an encoded value.
func seal(ctx context.Context, box *payload.Box, what string, v []byte) ([]byte, error) {
	stored, err := box.Seal(ctx, v)
	if err != nil {
		return nil, fmt.Errorf("workflow: store %s: %w", what, err)
	}
	return stored, nil
}

// open returns the encoded value that is stored.
func (c *Client) open(ctx context.Context, what string, stored []byte) ([]byte, error) {
	v, err := c.box.Open(ctx, stored)
	if err != nil {
		return nil, &ValueError{Kind: "decode", What: what, Err: err}
	}
	return v, nil
}

// openError returns a stored error. One that cannot be opened says why.
func (c *Client) openError(ctx context.Context, stored []byte) *RecordedError {
	if stored == nil {
		return nil
	}
	v, err := c.box.Open(ctx, stored)
	if err != nil {
		return &RecordedError{Message: err.Error(), Kind: "undecodable"}
	}
	return decodeError(v)
}

// open returns the value that an earlier turn, or somebody else, had stored.
func (t *turn) open(stored []byte) (v []byte, hash uint64, err error) {
	if t.in.Open == nil {
		return stored, 0, nil
	}
	return t.in.Open(t.ctx, stored)
}

// opened makes a checkpoint that is on record what it was when it was made, once.
// A value that cannot be read or opened ends the turn.
func (t *turn) opened(c *engine.Checkpoint) (ok bool) {
	t.asks(func() { ok = t.opens(c) })
	return ok
}

func (t *turn) opens(c *engine.Checkpoint) bool {
	if c.Apart > 0 {
		err := t.in.Fetch(t.ctx, t.replay[slices.Index(t.replay, c):])
		switch cause := context.Cause(t.ctx); {
		case err == nil:
		case cause != nil:
			t.leave(interrupted(cause))
			return false
		default:
			t.leave(refused(err))
			return false
		}
	}
	if c.Opened || t.in.Open == nil {
		return true
	}
	if err := openCheckpoint(t.ctx, c, t.in.Open); err != nil {
		t.leave(unopened("result of "+c.Key, err))
		return false
	}
	c.Opened = true
	return true
}

// openCheckpoint opens the output, or the error, and the input's hash that is
// sealed with it.
func openCheckpoint(ctx context.Context, c *engine.Checkpoint, open func(context.Context, []byte) ([]byte, uint64, error)) error {
	for _, v := range []*[]byte{&c.Output, &c.Error} {
		plain, hash, err := open(ctx, *v)
		if err != nil {
			return err
		}
		*v = plain
		c.InputHash |= hash // of the two, one has it; without a codec, none
	}
	return nil
}

// unopened is the end of a turn that could not read what is stored.
func unopened(what string, err error) engine.End {
	end := refused(err)
	if end.Kind == engine.Parked && (end.Reason == "undecodable" || end.Reason == "unreadable") {
		end.Err = &ValueError{Kind: "decode", What: what, Err: end.Err}
		end.Error = record(end.Err).encode()
	}
	return end
}

var _ payload.Codec = Codec(nil)
