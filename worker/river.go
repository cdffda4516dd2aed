package worker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/workflow"
)

// ticketWorker rings the dispatcher. The job says nothing that the dispatcher
// relies on.
type ticketWorker struct {
	river.WorkerDefaults[enqueue.Ticket]
	w *worker
}

func (t *ticketWorker) Work(context.Context, *river.Job[enqueue.Ticket]) error {
	t.w.wake()
	return nil
}

// startWorker adds the run that another River client asked for. The job's id is
// the idempotency key, as River may work a job twice.
type startWorker struct {
	river.WorkerDefaults[enqueue.Start]
	w *worker
}

func (s *startWorker) Work(ctx context.Context, job *river.Job[enqueue.Start]) error {
	a := job.Args
	if err := s.refuses(a); err != nil {
		return river.JobCancel(err)
	}
	options, err := startOptions(a)
	if err != nil {
		return river.JobCancel(err)
	}
	if a.Key == "" {
		a.Key = "river:" + strconv.FormatInt(job.ID, 10)
	}
	item := enqueue.Item{Tenant: a.Tenant, Workflow: a.Workflow, Key: a.Key, Input: a.Input}
	item.Set(options)
	if err := item.Seal(ctx, s.w.box); err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, s.w.Pool, func(tx pgx.Tx) error {
		results, err := enqueue.Insert(ctx, tx, s.w.q, []enqueue.Item{item})
		if err != nil {
			return err
		}
		if results[0].Err != nil {
			return river.JobCancel(results[0].Err)
		}
		return nil
	})
	if err == nil {
		s.w.wake()
	}
	return err
}

// refuses returns what is wrong with the arguments of a job.
func (s *startWorker) refuses(a enqueue.Start) error {
	switch {
	case !enqueue.Name.MatchString(a.Workflow):
		return &workflow.OptionError{Option: fmt.Sprintf("workflow %.40q of a stepward_start job", a.Workflow), Reason: enqueue.NameRule}
	case len(a.Input) == 0:
		return &workflow.OptionError{Option: "input of a stepward_start job", Reason: "there is none"}
	case len(a.Input) > s.w.MaxBytes:
		return &workflow.ValueError{Kind: "size", What: "input of workflow " + a.Workflow, Bytes: len(a.Input), Limit: s.w.MaxBytes}
	}
	for name, v := range map[string]string{"tenant": a.Tenant, "key": a.Key, "project": a.Project, "environment": a.Environment} {
		if reason := enqueue.BadText(v); reason != "" {
			return &workflow.OptionError{Option: name + " of a stepward_start job", Reason: reason}
		}
	}
	return nil
}

// maxSeconds is more than any run lasts, and what a time.Duration can hold.
const maxSeconds = 100 * 366 * 24 * 60 * 60

// startOptions returns what a job says of its run, or what is wrong with it.
func startOptions(a enqueue.Start) (o enqueue.Options, err error) {
	bad := func(field, reason string) error {
		return &workflow.OptionError{Option: field + " of a stepward_start job", Reason: reason}
	}
	if reason := enqueue.BadPriority(a.Priority); reason != "" {
		return o, bad("priority", reason)
	}
	for field, v := range map[string]float64{"timeout_seconds": a.Timeout, "limit.per_seconds": a.Limit.Per} {
		if v < 0 || v > maxSeconds {
			return o, bad(field, fmt.Sprintf("%v is not within 0 and 100 years", v))
		}
	}
	seconds := func(v float64) time.Duration { return time.Duration(v * float64(time.Second)) }
	limit := enqueue.Limit{Key: a.Limit.Key, Concurrency: a.Limit.Concurrency, Rate: a.Limit.Rate, Per: seconds(a.Limit.Per)}
	if field, reason := enqueue.BadLimit(limit); reason != "" {
		return o, bad("limit."+strings.ToLower(field), reason)
	}
	if limit.Key != "" {
		limit.Per = cmp.Or(limit.Per, time.Second)
	}
	where := engine.Identity{Project: a.Project, Environment: a.Environment}
	return enqueue.Options{Priority: int16(a.Priority), Timeout: seconds(a.Timeout), Limit: limit, Identity: where}, nil
}

// startRiver begins to work tickets. All Stepward workers register the same
// kinds, so that none of them treats a job of another as unknown.
func (w *worker) startRiver(ctx context.Context) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &ticketWorker{w: w})
	river.AddWorker(workers, &startWorker{w: w})
	indexes := slices.DeleteFunc(river.ReindexerIndexNamesDefault(), func(name string) bool {
		return name == "river_job_args_index" || name == "river_job_metadata_index" || name == "river_job_kind"
	})
	client, err := river.NewClient(riverpgxv5.New(w.Pool), &river.Config{
		Schema:                      w.q.River,
		Workers:                     workers,
		Queues:                      map[string]river.QueueConfig{enqueue.Queue: {MaxWorkers: 8}},
		FetchCooldown:               5 * time.Millisecond,
		FetchPollInterval:           poll,
		CompletedJobRetentionPeriod: time.Hour,
		ReindexerIndexNames:         indexes,
		Logger:                      slog.New(quieter{w.log.Handler()}),
	})
	if err != nil {
		return nil, fmt.Errorf("worker: river: %w", err)
	}
	if err := client.Start(ctx); err != nil {
		return nil, fmt.Errorf("worker: river: %w", err)
	}
	return client, nil
}

// quieter turns what River tells about itself into debug records; its warnings
// and errors stay.
type quieter struct{ slog.Handler }

func (h quieter) Enabled(ctx context.Context, l slog.Level) bool {
	if l < slog.LevelWarn {
		l = slog.LevelDebug
	}
	return h.Handler.Enabled(ctx, l)
}

func (h quieter) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		r.Level = slog.LevelDebug
	}
	return h.Handler.Handle(ctx, r)
}

func (h quieter) WithAttrs(a []slog.Attr) slog.Handler { return quieter{h.Handler.WithAttrs(a)} }

func (h quieter) WithGroup(name string) slog.Handler { return quieter{h.Handler.WithGroup(name)} }
