package worker

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// blobGrace is how long a blob may wait for the commit that refers to it. An
	// application's own transaction may take longer: it holds the blob's row.
	blobGrace = time.Hour

	pageOfBlobs = 100
)

// sweepBlobs deletes blobs that nothing refers to: their commit never came, or
// their runs are gone.
func (w *worker) sweepBlobs(ctx context.Context) error {
	for n := pageOfBlobs; n == pageOfBlobs; {
		try, cancel := context.WithTimeout(ctx, sweepEvery)
		err := pgx.BeginFunc(try, w.Pool, func(tx pgx.Tx) (err error) {
			n, err = w.sweepBlobsTx(try, tx)
			return err
		})
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// sweepBlobsTx deletes from the store first: a row without a blob is deleted the
// next time, a blob without a row would be there for ever.
func (w *worker) sweepBlobsTx(ctx context.Context, tx pgx.Tx) (n int, err error) {
	rows, err := tx.Query(ctx, w.q.BlobLoose, blobGrace.Seconds(), w.Blobs != nil, pageOfBlobs)
	if err != nil {
		return 0, err
	}
	var keys []string
	var errs []error
	var key string
	var stored bool
	var inStore []string
	_, err = pgx.ForEachRow(rows, []any{&key, &stored}, func() error {
		n++
		if stored {
			inStore = append(inStore, key)
		} else {
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, key := range inStore {
		if err := w.Blobs.Delete(ctx, key); err != nil {
			errs = append(errs, err)
			continue
		}
		keys = append(keys, key)
	}
	if len(errs) > 0 {
		w.warn(ctx, "deleting blobs", errors.Join(errs...))
		n = 0 // do not come back at once
	}
	if len(keys) > 0 {
		_, err = tx.Exec(ctx, w.q.BlobDelete, keys)
	}
	return n, err
}
