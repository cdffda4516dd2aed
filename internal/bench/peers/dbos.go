package main

import (
	"context"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/jackc/pgx/v5/pgxpool"
)

const dbosTopic = "mail"

type dbosPeer struct {
	pool    *pgxpool.Pool
	ctx     dbos.Context
	options []dbos.WorkflowOption
}

func openDBOSQueue(ctx context.Context, d *database) (peer, error)  { return openDBOS(ctx, d, true) }
func openDBOSDirect(ctx context.Context, d *database) (peer, error) { return openDBOS(ctx, d, false) }

func openDBOS(ctx context.Context, d *database, queued bool) (_ peer, err error) {
	pool, err := d.pool(ctx)
	if err != nil {
		return nil, err
	}
	p := &dbosPeer{pool: pool}
	if p.ctx, err = dbos.NewContext(ctx, dbos.Config{AppName: "peers", SystemDBPool: pool, Logger: d.log}); err != nil {
		pool.Close()
		return nil, err
	}
	for _, body := range dbosBodies {
		dbos.RegisterWorkflow(p.ctx, body)
	}
	if err := dbos.Launch(p.ctx); err != nil {
		p.close()
		return nil, err
	}
	if queued {
		queue, err := dbos.RegisterQueue(p.ctx, "runs")
		if err != nil {
			p.close()
			return nil, err
		}
		p.options = []dbos.WorkflowOption{dbos.WithQueue(queue)}
	}
	return p, nil
}

var dbosBodies = map[shape]dbos.Workflow[int, int]{chain: dbosChain, fan: dbosFan, letter: dbosLetter}

func dbosStep(ctx dbos.Context, n int) (int, error) {
	return dbos.RunAsStep(ctx, func(ctx context.Context) (int, error) { return step(ctx, n) }, dbos.WithStepName("step"))
}

func dbosChain(ctx dbos.Context, steps int) (n int, err error) {
	for range steps {
		if n, err = dbosStep(ctx, n); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func dbosFan(ctx dbos.Context, steps int) (n int, err error) {
	outs := make([]<-chan dbos.StepOutcome[int], steps)
	for i := range outs {
		if outs[i], err = dbos.Go(ctx, func(ctx context.Context) (int, error) { return step(ctx, 0) }, dbos.WithStepName("step")); err != nil {
			return 0, err
		}
	}
	for _, out := range outs {
		o := <-out
		if o.Err != nil {
			return 0, o.Err
		}
		n += o.Result
	}
	return n, nil
}

func dbosLetter(ctx dbos.Context, n int) (int, error) {
	if _, err := dbosStep(ctx, n); err != nil {
		return 0, err
	}
	return dbos.Recv[int](ctx, dbosTopic, time.Hour)
}

func (p *dbosPeer) enqueue(_ context.Context, s shape, n int) (handle, error) {
	h, err := dbos.RunWorkflow(p.ctx, dbosBodies[s], n, p.options...)
	if err != nil {
		return handle{}, err
	}
	return handle{
		result: func(context.Context) (int, error) { return h.GetResult() },
		signal: func(_ context.Context, v int) error { return dbos.Send(p.ctx, h.GetWorkflowID(), v, dbosTopic) },
	}, nil
}

func (p *dbosPeer) close() {
	_ = dbos.Shutdown(p.ctx, 10*time.Second)
	p.pool.Close()
}
