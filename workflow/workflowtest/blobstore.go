package workflowtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"

	"github.com/stepward/stepward/workflow"
)

// TestBlobStore checks that a store does what workflow.BlobStore demands. It
// leaves nothing behind.
func TestBlobStore(t *testing.T, store workflow.BlobStore) {
	t.Helper()
	ctx := t.Context()
	var id [8]byte
	rand.Read(id[:]) // never fails
	prefix := "workflowtest_" + hex.EncodeToString(id[:]) + "/"
	large := bytes.Repeat([]byte("\x00\xff large"), 1<<20)
	values := map[string][]byte{"a": []byte("value"), "b": {}, "c": {0, 1, 2, 255}, "large": large}
	for name, v := range values {
		t.Cleanup(func() {
			if err := store.Delete(context.WithoutCancel(ctx), prefix+name); err != nil {
				t.Errorf("Delete: %v", err)
			}
		})
		for range 2 {
			if err := store.Put(ctx, prefix+name, v); err != nil {
				t.Fatalf("Put of %d bytes: %v", len(v), err)
			}
		}
	}
	for name, v := range values {
		if got, err := store.Get(ctx, prefix+name); err != nil || !bytes.Equal(got, v) {
			t.Errorf("Get: %d bytes, %v; want the %d bytes that were put", len(got), err, len(v))
		}
	}
	if got, err := store.Get(ctx, prefix+"none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of what was never put: %d bytes, %v; want fs.ErrNotExist", len(got), err)
	}
	for range 2 {
		if err := store.Delete(ctx, prefix+"a"); err != nil {
			t.Errorf("Delete: %v; want nil, also for what does not exist", err)
		}
	}
	if _, err := store.Get(ctx, prefix+"a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of what was deleted: %v; want fs.ErrNotExist", err)
	}
	if got, err := store.Get(ctx, prefix+"c"); err != nil || !bytes.Equal(got, values["c"]) {
		t.Errorf("Get: %v; a Delete of another key took it along", err)
	}

	var group sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		group.Go(func() {
			key, v := fmt.Sprintf("%sat-once-%d", prefix, i), fmt.Appendf(nil, "%d", i)
			got, err := []byte(nil), store.Put(ctx, key, v)
			if err == nil {
				got, err = store.Get(ctx, key)
			}
			if err == nil && !bytes.Equal(got, v) {
				err = fmt.Errorf("got %q, want %q", got, v)
			}
			errs[i] = errors.Join(err, store.Delete(ctx, key))
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Errorf("concurrent use: %v", err)
	}
}
