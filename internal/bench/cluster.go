package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/workflow"
)

// cluster is the Postgres that is measured.
type cluster struct {
	*measure.Cluster
	schemas atomic.Int64
}

// newSchema makes a migrated schema, and returns what removes it.
func (c *cluster) newSchema(ctx context.Context) (schema string, drop func(), err error) {
	schema = fmt.Sprintf("bench_%d_%d", os.Getpid(), c.schemas.Add(1))
	if err := workflow.Migrate(ctx, c.Pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		return "", nil, err
	}
	return schema, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		_, err := c.Pool.Exec(ctx, "DROP SCHEMA "+schema+" CASCADE; DROP SCHEMA "+schema+"_river CASCADE")
		if err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, "bench: drop schema:", err)
		}
	}, nil
}

// idleTime is how long an idle worker is looked at, at least. What it does, it
// does every few seconds.
const idleTime = 6 * time.Second

// measure returns what f wrote, less what the same time costs without it.
func (c *cluster) measure(ctx context.Context, f func() error) (measure.Cost, error) {
	if _, err := c.Pool.Exec(ctx, "CHECKPOINT"); err != nil {
		return measure.Cost{}, err
	}
	start, err := c.Mark(ctx)
	if err != nil {
		return measure.Cost{}, err
	}
	if err := f(); err != nil {
		return measure.Cost{}, err
	}
	end, err := c.Mark(ctx)
	if err != nil {
		return measure.Cost{}, err
	}
	x := start.To(end)
	select {
	case <-ctx.Done():
		return measure.Cost{}, ctx.Err()
	case <-time.After(max(x.Elapsed, idleTime)):
	}
	after, err := c.Mark(ctx)
	if err != nil {
		return measure.Cost{}, err
	}
	idle := end.To(after)
	share := x.Elapsed.Seconds() / idle.Elapsed.Seconds()
	x.Xacts -= idle.Xacts * share
	x.Bytes -= idle.Bytes * share
	return x, nil
}
