package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// year is how long a run sleeps that is to stay.
const year = 365 * 24 * time.Hour

// benchParked compares a worker beside nothing with one beside many runs that
// wait. Of these two are made by the engine, one that sleeps and one that waits
// for a signal; the others have copies of their rows.
func benchParked(ctx context.Context, b *bench) error {
	a, err := b.newApp(ctx, worker.Config{})
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.besides(ctx, b, 0); err != nil {
		return err
	}
	p, err := a.startChild(ctx)
	if err != nil {
		return err
	}
	defer p.end()
	sleeps, err := nap.Enqueue(ctx, a.client, year, workflow.EnqueueOptions{})
	if err != nil {
		return err
	}
	waits, err := mailbox.Enqueue(ctx, a.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		return err
	}
	if err := a.until(ctx, fmt.Sprintf("SELECT count(*) = 2 FROM %s.timer", a.schema)); err != nil {
		return err
	}
	p.end()
	start := time.Now()
	for _, id := range []workflow.RunID{sleeps.ID, waits.ID} {
		if err := a.multiply(ctx, id, b.parked/2); err != nil {
			return err
		}
	}
	if _, err := a.pool.Exec(ctx, "VACUUM ANALYZE"); err != nil { // as autovacuum will have done
		return err
	}
	measure.Progress("%d runs were added within %v", b.parked, time.Since(start).Round(time.Second))
	return a.besides(ctx, b, b.parked)
}

// multiply adds n runs that are where a run is.
func (a *app) multiply(ctx context.Context, id workflow.RunID, n int) error {
	return pgx.BeginFunc(ctx, a.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, fmt.Sprintf("CREATE TEMP TABLE fresh ON COMMIT DROP AS SELECT %s.next_id() AS fresh_id FROM generate_series(1, %d)", a.schema, n))
		for table, key := range map[string]string{"run": "id", "claim": "run_id", "wait": "run_id", "timer": "run_id"} {
			if err != nil {
				return err
			}
			var columns, values string
			if err := tx.QueryRow(ctx, `SELECT string_agg(attname, ', '), string_agg(CASE attname WHEN $2 THEN 'fresh_id'
					WHEN 'wake_at' THEN 'wake_at + random() * interval ''30 days''' ELSE attname END, ', ')
				FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped`, a.schema+"."+table, key).Scan(&columns, &values); err != nil {
				return err
			}
			_, err = tx.Exec(ctx, fmt.Sprintf("INSERT INTO %[1]s.%[2]s (%[3]s) SELECT %[4]s FROM %[1]s.%[2]s, fresh WHERE %[5]s = %[6]d", a.schema, table, columns, values, key, int64(id)))
		}
		return err
	})
}

// besides measures a worker process beside n runs that wait.
func (a *app) besides(ctx context.Context, b *bench, n int) error {
	p, err := a.startChild(ctx)
	if err != nil {
		return err
	}
	defer p.end()
	if err := a.until(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM %s.worker WHERE state = 'live')", a.schema)); err != nil {
		return err
	}
	name := fmt.Sprintf(", beside %d that wait", n)
	signals, err := a.wakeBySignal(ctx, 100)
	if err != nil {
		return err
	}
	timers, err := a.wakeByTimer(ctx, 100)
	if err != nil {
		return err
	}
	perSecond, err := a.idle(ctx, 10*time.Second)
	if err != nil {
		return err
	}
	looks, err := a.looks(ctx, 50)
	if err != nil {
		return err
	}
	kB, err := rss(p.cmd.Process.Pid)
	if err == nil {
		b.report.add("memory of the worker's process (RSS)"+name, float64(kB)/1024, "MiB")
	} else {
		b.report.note("no RSS: %v", err)
	}
	b.report.add("transactions of an idle worker"+name, perSecond, "/s")
	b.report.durations("a look for runs that are due"+name, looks, 0.5)
	b.report.durations("Send to Result of a run that is not in memory"+name, signals, 0.5, 0.95)
	b.report.durations("from the end of its sleep to that of a run"+name, timers, 0.5, 0.95)
	return nil
}

// wakeBySignal times n runs, one at a time, once all wait in Postgres.
func (a *app) wakeBySignal(ctx context.Context, n int) (all []time.Duration, err error) {
	var runs []workflow.Run[int]
	for range n {
		run, err := mailbox.Enqueue(ctx, a.client, 1, workflow.EnqueueOptions{})
		if err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	if err := a.until(ctx, fmt.Sprintf("SELECT count(*) = %d FROM %s.timer WHERE run_id >= %d", n, a.schema, int64(runs[0].ID))); err != nil {
		return nil, err
	}
	for _, run := range runs {
		start := time.Now()
		if err := letter.Send(ctx, a.client, run.ID, 1); err != nil {
			return nil, err
		}
		if _, err := run.Result(ctx); err != nil {
			return nil, err
		}
		all = append(all, time.Since(start))
	}
	return all, nil
}

// wakeByTimer lets n runs sleep that are not in memory then, and end one after the
// other. The times are those of Postgres.
func (a *app) wakeByTimer(ctx context.Context, n int) (all []time.Duration, err error) {
	var runs []int64
	for i := range n {
		run, err := nap.Enqueue(ctx, a.client, 15*time.Second+time.Duration(i)*30*time.Millisecond, workflow.EnqueueOptions{})
		if err != nil {
			return nil, err
		}
		runs = append(runs, int64(run.ID))
	}
	if err := a.until(ctx, fmt.Sprintf("SELECT count(*) = %d FROM %s.timer WHERE run_id >= %d", n, a.schema, runs[0])); err != nil {
		return nil, err
	}
	if _, err := a.pool.Exec(ctx, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %[1]s.due AS TABLE %[1]s.timer WITH NO DATA; TRUNCATE %[1]s.due; INSERT INTO %[1]s.due SELECT * FROM %[1]s.timer WHERE run_id >= %[2]d", a.schema, runs[0])); err != nil {
		return nil, err
	}
	if err := a.until(ctx, fmt.Sprintf("SELECT NOT EXISTS (SELECT FROM %[1]s.run JOIN %[1]s.due ON run_id = id WHERE state = 'live')", a.schema)); err != nil {
		return nil, err
	}
	rows, err := a.pool.Query(ctx, fmt.Sprintf("SELECT finished_at - wake_at FROM %[1]s.run JOIN %[1]s.due ON run_id = id", a.schema))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[time.Duration])
}

// idle returns how many transactions per second a worker makes that has nothing to
// do. Nothing else is done meanwhile.
func (a *app) idle(ctx context.Context, d time.Duration) (float64, error) {
	count := func() (n float64, err error) {
		err = a.pool.QueryRow(ctx, "SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = current_database()").Scan(&n)
		return n, err
	}
	wait := func(d time.Duration) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}
	if err := wait(3 * time.Second); err != nil { // what was done before is counted late
		return 0, err
	}
	before, err := count()
	if err != nil {
		return 0, err
	}
	if err := wait(d); err != nil {
		return 0, err
	}
	after, err := count()
	return (after - before - 1) / d.Seconds(), err
}

// looks times what every worker asks once a second.
func (a *app) looks(ctx context.Context, n int) (all []time.Duration, err error) {
	for range n {
		start := time.Now()
		if _, err := a.pool.Exec(ctx, a.q.TimerWake, "bench"); err != nil {
			return nil, err
		}
		all = append(all, time.Since(start))
	}
	return all, nil
}

var rssLine = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)

// rss is the resident memory of a process, in kB.
func rss(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	m := rssLine.FindStringSubmatch(string(status))
	if m == nil {
		return 0, errors.New("/proc does not say: " + strings.SplitN(string(status), "\n", 2)[0])
	}
	return strconv.Atoi(m[1])
}
