package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverPeer is a River client that works its jobs.
type riverPeer struct {
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx]
	steps  bool // a job each

	mu   sync.Mutex
	ends map[int64]chan int // by job or run
	stop func()
}

// ended is where the result of a job or run arrives, whoever asks first.
func (p *riverPeer) ended(id int64) chan int {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.ends[id]
	if !ok {
		c = make(chan int, 1)
		p.ends[id] = c
	}
	return c
}

func openRiver(ctx context.Context, d *database) (peer, error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &runWorker{})
	p, err := openRiverWith(ctx, d, workers)
	if err != nil {
		return nil, err
	}
	events, cancel := p.client.SubscribeConfig(&river.SubscribeConfig{ChanSize: 100_000, Kinds: []river.EventKind{river.EventKindJobCompleted}})
	var listening sync.WaitGroup
	listening.Go(func() {
		for e := range events {
			var n int
			if err := json.Unmarshal(e.Job.Output(), &n); err != nil {
				d.fail(err)
				return
			}
			p.ended(e.Job.ID) <- n
		}
	})
	p.stop = func() { cancel(); listening.Wait() }
	return p.start(ctx)
}

//go:embed river.sql
var riverTables string

func openRiverSteps(ctx context.Context, d *database) (peer, error) {
	w := &stepWorker{}
	workers := river.NewWorkers()
	river.AddWorker(workers, w)
	p, err := openRiverWith(ctx, d, workers)
	if err != nil {
		return nil, err
	}
	w.p, p.steps, p.stop = p, true, func() {}
	if _, err := p.pool.Exec(ctx, riverTables); err != nil {
		p.pool.Close()
		return nil, err
	}
	return p.start(ctx)
}

func openRiverWith(ctx context.Context, d *database, jobs *river.Workers) (*riverPeer, error) {
	pool, err := d.pool(ctx)
	if err != nil {
		return nil, err
	}
	p := &riverPeer{pool: pool, ends: make(map[int64]chan int)}
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: d.log})
	if err == nil {
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	if err == nil {
		p.client, err = river.NewClient(driver, &river.Config{
			Workers: jobs, Logger: d.log,
			Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
		})
	}
	if err != nil {
		pool.Close()
		return nil, err
	}
	return p, nil
}

func (p *riverPeer) start(ctx context.Context) (peer, error) {
	if err := p.client.Start(ctx); err != nil {
		p.stop()
		p.pool.Close()
		return nil, err
	}
	return p, nil
}

func (p *riverPeer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = p.client.Stop(ctx)
	p.stop()
	p.pool.Close()
}

func (p *riverPeer) enqueue(ctx context.Context, s shape, n int) (handle, error) {
	if p.steps {
		return p.enqueueSteps(ctx, s, n)
	}
	job, err := p.client.Insert(ctx, runArgs{Steps: n}, nil)
	if err != nil {
		return handle{}, err
	}
	return p.handle(job.Job.ID), nil
}

func (p *riverPeer) handle(id int64) handle {
	return handle{result: func(ctx context.Context) (int, error) {
		select {
		case n := <-p.ended(id):
			p.mu.Lock()
			delete(p.ends, id)
			p.mu.Unlock()
			return n, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}}
}

// runArgs is a run that is one job.
type runArgs struct {
	Steps int `json:"steps"`
}

func (runArgs) Kind() string { return "run" }

type runWorker struct{ river.WorkerDefaults[runArgs] }

func (*runWorker) Work(ctx context.Context, job *river.Job[runArgs]) (err error) {
	n := 0
	for range job.Args.Steps {
		if n, err = step(ctx, n); err != nil {
			return err
		}
	}
	return river.RecordOutput(ctx, n)
}

// stepArgs is a step that is a job. It is followed by the next one, unless all
// are there at once.
type stepArgs struct {
	Run   int64 `json:"run"`
	Seq   int   `json:"seq"`
	Input int   `json:"input"`
	Of    int   `json:"of"` // steps, one after the other; 0 if all are there at once
}

func (stepArgs) Kind() string { return "step" }

func (p *riverPeer) enqueueSteps(ctx context.Context, s shape, n int) (handle, error) {
	var id int64
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `INSERT INTO app_run (steps, "left") VALUES ($1, $1) RETURNING id`, n).Scan(&id); err != nil {
			return err
		}
		if s == chain {
			_, err := p.client.InsertTx(ctx, tx, stepArgs{Run: id, Seq: 1, Of: n}, nil)
			return err
		}
		var all []river.InsertManyParams
		for i := range n {
			all = append(all, river.InsertManyParams{Args: stepArgs{Run: id, Seq: i + 1}})
		}
		_, err := p.client.InsertManyFastTx(ctx, tx, all)
		return err
	})
	return p.handle(id), err
}

type stepWorker struct {
	river.WorkerDefaults[stepArgs]
	p *riverPeer
}

func (w *stepWorker) Work(ctx context.Context, job *river.Job[stepArgs]) error {
	a := job.Args
	out, err := step(ctx, a.Input)
	if err != nil {
		return err
	}
	var result *int
	if err := pgx.BeginFunc(ctx, w.p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO app_step (run, seq, output) VALUES ($1, $2, $3)", a.Run, a.Seq, out); err != nil {
			return err
		}
		if a.Seq < a.Of {
			next := a
			next.Seq, next.Input = a.Seq+1, out
			if _, err := w.p.client.InsertTx(ctx, tx, next, nil); err != nil {
				return err
			}
		} else {
			sql := "UPDATE app_run SET output = to_jsonb(steps) WHERE id = $1 RETURNING steps"
			if a.Of == 0 {
				sql = `UPDATE app_run SET "left" = "left" - 1, output = CASE WHEN "left" = 1 THEN to_jsonb(steps) END
					WHERE id = $1 RETURNING CASE WHEN "left" = 0 THEN steps END`
			}
			if err := tx.QueryRow(ctx, sql, a.Run).Scan(&result); err != nil {
				return err
			}
		}
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	}); err != nil {
		return fmt.Errorf("step %d of run %d: %w", a.Seq, a.Run, err)
	}
	if result != nil {
		w.p.ended(a.Run) <- *result
	}
	return nil
}
