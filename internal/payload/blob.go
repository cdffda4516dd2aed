package payload

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A Store is workflow.BlobStore.
type Store interface {
	Put(ctx context.Context, key string, data []byte) error
	Get(ctx context.Context, key string) ([]byte, error)
	Delete(ctx context.Context, key string) error
}

// A blob is written before what refers to it, and loose until that is committed
// (see Use): what is loose for longer than a grace is swept. A store's blob has a
// row as well, written before the blob is, so that none is forgotten.

// put writes a blob and returns the reference to it.
func (b *Box) put(ctx context.Context, data []byte) ([]byte, error) {
	var id [16]byte
	rand.Read(id[:]) // never fails
	key := b.Q.Schema + "/" + hex.EncodeToString(id[:])
	kind, row := byte(kindRow), data
	if b.Store != nil {
		kind, row = kindStore, nil
	}
	exec := b.Pool.Exec
	if b.tx != nil && b.Store == nil {
		exec = b.tx.Exec
	}
	if _, err := exec(ctx, b.Q.BlobPut, key, row); err != nil {
		return nil, fmt.Errorf("write a blob: %w", err)
	}
	if b.Store != nil {
		if err := b.Store.Put(ctx, key, data); err != nil {
			return nil, fmt.Errorf("write a blob: %w", err)
		}
	}
	sum := sha256.Sum256(data)
	ref := binary.BigEndian.AppendUint64([]byte{kind}, uint64(len(data)))
	return append(append(ref, sum[:]...), key...), nil
}

const refHead = 1 + 8 + sha256.Size

// BlobKey returns the key of the blob that a stored value refers to, or "".
func BlobKey(stored []byte) string {
	if len(stored) <= refHead || stored[0] != kindRow && stored[0] != kindStore {
		return ""
	}
	return string(stored[refHead:])
}

// get returns what a reference refers to, if it is what was written.
func (b *Box) get(ctx context.Context, ref []byte) ([]byte, error) {
	key := BlobKey(ref)
	data, err := b.fetch(ctx, ref[0], key)
	if err != nil {
		return nil, &OpenError{Blob: key, Err: err}
	}
	if size := binary.BigEndian.Uint64(ref[1:]); size != uint64(len(data)) {
		return nil, &OpenError{Blob: key, Err: permanent{fmt.Errorf("it has %d bytes, %d were written", len(data), size)}}
	}
	if sum := sha256.Sum256(data); string(sum[:]) != string(ref[9:refHead]) {
		return nil, &OpenError{Blob: key, Err: permanent{errors.New("it is not what was written: its SHA-256 differs")}}
	}
	return data, nil
}

func (b *Box) fetch(ctx context.Context, kind byte, key string) (data []byte, err error) {
	switch {
	case key == "":
		return nil, permanent{errCut}
	case kind == kindStore && b.Store == nil:
		return nil, permanent{errors.New("no blob store is configured")}
	case kind == kindStore:
		return b.Store.Get(ctx, key)
	case b.Pool == nil:
		return nil, permanent{errors.New("there is no database to read it from")}
	}
	err = b.Pool.QueryRow(ctx, b.Q.BlobGet, key).Scan(&data)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, permanent{errors.New("it does not exist")}
	}
	return data, err
}

// Use says, in the transaction that writes references, which run each is of.
type Use struct {
	Runs []int64
	Keys []string
}

// Add takes note of what a stored value refers to.
func (u *Use) Add(run int64, stored ...[]byte) {
	for _, s := range stored {
		if key := BlobKey(s); key != "" {
			u.Runs, u.Keys = append(u.Runs, run), append(u.Keys, key)
		}
	}
}

// Write makes the blobs those of the runs. If they are of signals, they stay when
// the run begins anew.
func (u *Use) Write(ctx context.Context, tx interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, sql string, signals bool) error {
	if len(u.Keys) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, sql, u.Runs, u.Keys, signals)
	if Swept(err) {
		err = fmt.Errorf("a large value was swept before it was used: %w", err)
	}
	return err
}

// Swept reports that nothing was written, since a blob that it would refer to is not
// there any more: it was loose for too long, by the clock of Postgres.
func Swept(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.ConstraintName == "blob_is_there"
}
