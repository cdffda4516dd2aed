package workflow_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"sync"

	"github.com/stepward/stepward/workflow"
)

// A shelf keeps large values in memory. A real store writes to S3 or the like: the
// three methods are all that it needs, and workflowtest.TestBlobStore says whether
// they are right.
type shelf struct{ values sync.Map }

func (s *shelf) Put(_ context.Context, key string, data []byte) error {
	s.values.Store(key, bytes.Clone(data))
	return nil
}

func (s *shelf) Get(_ context.Context, key string) ([]byte, error) {
	if v, ok := s.values.Load(key); ok {
		return v.([]byte), nil
	}
	return nil, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
}

func (s *shelf) Delete(_ context.Context, key string) error {
	s.values.Delete(key)
	return nil
}

// Values of more than 64 KiB go to the store, and the limit can be raised.
func ExampleBlobStore() {
	store := new(shelf)
	cfg := workflow.ClientConfig{Blobs: store, MaxBytes: 32 << 20} // worker.Config has the same fields
	err := cfg.Blobs.Put(context.Background(), "stepward/7", []byte("large"))
	v, _ := store.Get(context.Background(), "stepward/7")
	fmt.Println(string(v), err)
	// Output: large <nil>
}
