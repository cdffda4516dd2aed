package workflow_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"strings"
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

// keys returns how many values there are.
func (s *shelf) keys() (n int) {
	s.values.Range(func(any, any) bool { n++; return true })
	return n
}

// Values of more than 64 KiB go to the store: here the output of one step, and not that
// of the other. ClientConfig.MaxBytes and worker.Config.MaxBytes raise the limit of a
// value.
func ExampleBlobStore() {
	ctx := context.Background()
	store := new(shelf)
	render := workflow.NewStep("render", func(_ context.Context, bytes int) (string, error) {
		return strings.Repeat("x", bytes), nil
	}, workflow.StepOptions{})
	site := workflow.DurableWorkflow[int, int]{Name: "site"}
	client, _, stop := serveWith(ctx, store, workflow.Define(site, func(ctx workflow.Context, n int) (int, error) {
		large, err := render.Run(ctx, n)
		if err != nil {
			return 0, err
		}
		small, err := render.Run(ctx, n/100)
		return len(large) + len(small), err
	}, workflow.Options{Steps: []workflow.Declared{render}}))
	defer stop()
	run, err := site.Enqueue(ctx, client, 100<<10, workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	bytes, err := run.Result(ctx)
	fmt.Println(bytes, err, store.keys())
	// Output: 103424 <nil> 1
}
