package main

import (
	"context"
	"database/sql"
	"time"

	"github.com/cschleiden/go-workflows/backend"
	"github.com/cschleiden/go-workflows/backend/postgres"
	"github.com/cschleiden/go-workflows/client"
	"github.com/cschleiden/go-workflows/worker"
	"github.com/cschleiden/go-workflows/workflow"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/stdlib"
)

const goWorkflowsSignal = "mail"

type goWorkflows struct {
	db     *sql.DB
	client *client.Client
	end    func()
}

func openGoWorkflows(ctx context.Context, d *database) (peer, error) {
	log := postgres.WithBackendOptions(backend.WithLogger(d.log))
	open := func() *sql.DB {
		db := stdlib.OpenDB(*d.config.ConnConfig)
		db.SetMaxOpenConns(conns)
		db.SetMaxIdleConns(conns) // database/sql would keep 2 and connect anew for the others
		return db
	}
	migrating := open() // the migration keeps a connection for itself
	postgres.NewPostgresBackendWithDB(migrating, postgres.WithApplyMigrations(true), log)
	if err := migrating.Close(); err != nil {
		return nil, err
	}
	p := &goWorkflows{db: open()}
	b := postgres.NewPostgresBackendWithDB(p.db, log)
	w := worker.New(b, nil)
	for _, body := range goWorkflowsBodies {
		if err := w.RegisterWorkflow(body); err != nil {
			return nil, err
		}
	}
	if err := w.RegisterActivity(step); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	if err := w.Start(ctx); err != nil {
		cancel()
		return nil, err
	}
	p.client = client.New(b)
	p.end = func() { cancel(); _ = w.WaitForCompletion() }
	return p, nil
}

var goWorkflowsBodies = map[shape]workflow.Workflow{chain: goWorkflowsChain, fan: goWorkflowsFan, letter: goWorkflowsLetter}

func goWorkflowsStep(ctx workflow.Context, n int) workflow.Future[int] {
	return workflow.ExecuteActivity[int](ctx, workflow.DefaultActivityOptions, step, n)
}

func goWorkflowsChain(ctx workflow.Context, steps int) (n int, err error) {
	for range steps {
		if n, err = goWorkflowsStep(ctx, n).Get(ctx); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func goWorkflowsFan(ctx workflow.Context, steps int) (n int, err error) {
	outs := make([]workflow.Future[int], steps)
	for i := range outs {
		outs[i] = goWorkflowsStep(ctx, 0)
	}
	for _, out := range outs {
		v, err := out.Get(ctx)
		if err != nil {
			return 0, err
		}
		n += v
	}
	return n, nil
}

func goWorkflowsLetter(ctx workflow.Context, n int) (int, error) {
	if _, err := goWorkflowsStep(ctx, n).Get(ctx); err != nil {
		return 0, err
	}
	v, _ := workflow.NewSignalChannel[int](ctx, goWorkflowsSignal).Receive(ctx)
	return v, nil
}

func (p *goWorkflows) enqueue(ctx context.Context, s shape, n int) (handle, error) {
	run, err := p.client.CreateWorkflowInstance(ctx, client.WorkflowInstanceOptions{InstanceID: uuid.NewString()}, goWorkflowsBodies[s], n)
	if err != nil {
		return handle{}, err
	}
	return handle{
		result: func(ctx context.Context) (int, error) {
			return client.GetWorkflowResult[int](ctx, p.client, run, time.Hour)
		},
		signal: func(ctx context.Context, v int) error {
			return p.client.SignalWorkflow(ctx, run.InstanceID, goWorkflowsSignal, v)
		},
	}, nil
}

func (p *goWorkflows) close() {
	p.end()
	_ = p.db.Close()
}
