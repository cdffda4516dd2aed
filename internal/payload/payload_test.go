package payload_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/payload"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// table is table blob as a store of its own, by the statements that the box and
// the sweep use.
type table struct {
	pool *pgxpool.Pool
	q    *db.Queries
}

func (s table) Put(ctx context.Context, key string, data []byte) error {
	_, err := s.pool.Exec(ctx, s.q.BlobPut, key, data)
	return err
}

func (s table) Get(ctx context.Context, key string) (data []byte, err error) {
	err = s.pool.QueryRow(ctx, s.q.BlobGet, key).Scan(&data)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fs.ErrNotExist
	}
	return data, err
}

func (s table) Delete(ctx context.Context, key string) error {
	_, err := s.pool.Exec(ctx, s.q.BlobDelete, []string{key})
	return err
}

func newTable(t *testing.T) table {
	t.Helper()
	pool, schema := testenv.Postgres(t)
	if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	q, err := db.New(schema)
	if err != nil {
		t.Fatal(err)
	}
	return table{pool, q}
}

func TestTable(t *testing.T) { workflowtest.TestBlobStore(t, newTable(t)) }

// rot is a codec that anybody can break.
type rot struct{ keyID string }

func (r rot) turn(v []byte) []byte {
	out := bytes.Clone(v)
	for i := range out {
		out[i] ^= 0x55
	}
	return out
}

func (r rot) Encode(_ context.Context, v []byte) (string, []byte, error) {
	return r.keyID, r.turn(v), nil
}

func (r rot) Decode(_ context.Context, keyID string, v []byte) ([]byte, error) {
	if keyID != r.keyID {
		return nil, fmt.Errorf("no key %q", keyID)
	}
	return r.turn(v), nil
}

// What is sealed opens to what it was, whatever the size, and small values without
// a codec are stored as they are.
func TestSeal(t *testing.T) {
	s := newTable(t)
	plain := &payload.Box{Pool: s.pool, Q: s.q}
	coded := &payload.Box{Pool: s.pool, Q: s.q, Codec: rot{"k"}}
	for _, size := range []int{0, 1, payload.Inline - 10, payload.Inline, payload.Inline + 1, 3 << 20} {
		v := bytes.Repeat([]byte("7"), size)
		for name, box := range map[string]*payload.Box{"plain": plain, "coded": coded, "nil": nil} {
			stored, outside, err := box.SealHashed(t.Context(), v, 99)
			if err != nil {
				t.Fatal(err)
			}
			got, inside, err := box.OpenHashed(t.Context(), stored)
			if err != nil || !bytes.Equal(got, v) || outside|inside != 99 && size > 0 {
				t.Errorf("%s, %d bytes: %d bytes, hashes %d %d, %v", name, size, len(got), outside, inside, err)
			}
			if name != "nil" && len(stored) > payload.Inline+2+len("k") {
				t.Errorf("%s, %d bytes: %d bytes are stored in line", name, size, len(stored))
			}
			if name == "plain" && size <= payload.Inline && !bytes.Equal(stored, v) {
				t.Errorf("%d bytes without a codec are changed", size)
			}
			if name == "coded" && size > 0 && (outside != 0 || bytes.Contains(stored, []byte("7777777777777777"))) {
				t.Errorf("%d bytes with a codec are stored in plain", size)
			}
		}
	}
}

// A value that is not what was written, or that cannot be had, is an error that
// names it.
func TestDamage(t *testing.T) {
	s := newTable(t)
	box := &payload.Box{Pool: s.pool, Q: s.q}
	stored, err := box.Seal(t.Context(), bytes.Repeat([]byte("7"), 100<<10))
	if err != nil {
		t.Fatal(err)
	}
	key := payload.BlobKey(stored)
	for _, damage := range []struct{ sql, want string }{
		{"UPDATE " + s.q.Schema + ".blob SET data = overlay(data placing '8'::bytea from 5)", "SHA-256"},
		{"UPDATE " + s.q.Schema + ".blob SET data = '7'", "1 bytes"},
		{"DELETE FROM " + s.q.Schema + ".blob", "does not exist"},
	} {
		if _, err := s.pool.Exec(t.Context(), damage.sql); err != nil {
			t.Fatal(err)
		}
		_, err := box.Open(t.Context(), stored)
		var open *payload.OpenError
		if !errors.As(err, &open) || open.Blob != key || !payload.Permanent(err) || !strings.Contains(err.Error(), damage.want) {
			t.Errorf("want %q, got %v", damage.want, err)
		}
	}
}

// No stored bytes make Open panic or hang, and what is JSON stays what it is.
func FuzzOpen(f *testing.F) {
	box := &payload.Box{Codec: rot{"k"}}
	sealed, _, err := box.SealHashed(f.Context(), []byte(`"v"`), 5)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{nil, []byte(`{}`), {1}, {1, 200}, {2, 0}, {2, 1, 'k', 0}, {3}, {3, 0, 0}, bytes.Repeat([]byte{3}, 60), bytes.Repeat([]byte{4}, 60), sealed} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		v, _, err := box.OpenHashed(t.Context(), stored)
		if _, sealed := payload.Sealed(stored); !sealed && (err != nil || !bytes.Equal(v, stored)) {
			t.Errorf("%q became %q, %v", stored, v, err)
		}
	})
}
