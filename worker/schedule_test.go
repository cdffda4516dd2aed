package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// report is what the schedules of these tests enqueue: it returns its tick once
// it is told to.
var (
	report  = workflow.DurableWorkflow[bool, time.Time]{Name: "report"}
	printIt = workflow.NewSignal[bool]("print")
)

var reportV1 = workflow.Define(report, func(ctx workflow.Context, wait bool) (time.Time, error) {
	if wait {
		if _, err := printIt.Receive(ctx, 0); err != nil {
			return time.Time{}, err
		}
	}
	return ctx.Info().Tick, nil
}, workflow.Options{})

// scheduled is a schedule of report with what a test does to it.
type scheduled struct {
	*fixture
	workflow.Schedule
}

func (f *fixture) schedule(wait bool, o workflow.ScheduleOptions) scheduled {
	f.t.Helper()
	s, err := report.Schedule(f.t.Context(), f.client, wait, o)
	if err != nil {
		f.t.Fatal(err)
	}
	return scheduled{f, s}
}

// rewind moves the next tick of a schedule back: as if no worker had been there
// for so long.
func (f *fixture) rewind(name string, by time.Duration) {
	f.t.Helper()
	f.exec("UPDATE stepward.schedule SET tick_at = tick_at - $2::interval, due_at = tick_at - $2::interval WHERE name = $1", name, by)
}

func (s scheduled) status() workflow.ScheduleStatus {
	s.t.Helper()
	st, err := s.Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// ticks returns those of the runs, oldest first.
func (s scheduled) ticks() (ticks []time.Time, runs []workflow.RunID) {
	s.t.Helper()
	for r, err := range s.client.Runs(s.t.Context(), workflow.RunFilter{Workflow: report.Name}) {
		if err != nil {
			s.t.Fatal(err)
		}
		var tick time.Time
		if err := s.pool.QueryRow(s.t.Context(), s.sql("SELECT tick FROM stepward.run WHERE id = $1"), r.ID).Scan(&tick); err != nil {
			s.t.Fatal(err)
		}
		ticks, runs = append(ticks, tick.UTC()), append(runs, r.ID)
	}
	slices.Reverse(ticks)
	slices.Reverse(runs)
	return ticks, runs
}

// has waits until there are n runs, and checks their ticks, which are given as a
// distance to the first.
func (s scheduled) has(first time.Time, want ...time.Duration) []workflow.RunID {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d runs", len(want)), func() bool { _, runs := s.ticks(); return len(runs) >= len(want) })
	ticks, runs := s.ticks()
	var got []time.Duration
	for _, tick := range ticks {
		got = append(got, tick.Sub(first))
	}
	if !slices.Equal(got, want) {
		s.t.Fatalf("ticks %v after %s, want %v", got, first, want)
	}
	return runs
}

// advances waits until the schedule has nothing to do.
func (s scheduled) advances() workflow.ScheduleStatus {
	s.t.Helper()
	eventually(s.t, "the schedule advances", func() bool {
		return s.count("SELECT count(*) FROM stepward.schedule WHERE name = $1 AND due_at > clock_timestamp()", s.Name) == 1
	})
	return s.status()
}

const hour = time.Hour

// A schedule enqueues at its times, and the run knows which one it is for.
func TestSchedule(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{reportV1}})
	s := f.schedule(false, workflow.ScheduleOptions{Name: "often", Tenant: "acme", Every: time.Second})
	first := s.status().Next
	if now := time.Now(); first.Nanosecond() != 0 || first.After(now.Add(2*time.Second)) {
		t.Errorf("it is %s, the first tick is %s", now, first)
	}
	eventually(t, "two ticks", func() bool { ticks, _ := s.ticks(); return len(ticks) >= 2 })
	ticks, runs := s.ticks()
	if !ticks[0].Equal(first) || ticks[1].Sub(first)%time.Second != 0 || !ticks[1].After(first) {
		t.Errorf("ticks %v, the first should have been %s", ticks, first)
	}
	out, err := outcome(t, f.client, report.Handle(f.client, runs[0]))
	if err != nil || !out.Equal(first) {
		t.Errorf("the body got tick %s, %v; want %s", out, err, first)
	}
	if err := f.client.Replay(t.Context(), runs[0], reportV1); err != nil {
		t.Errorf("replay: %v", err)
	}
	document, err := f.client.Export(t.Context(), runs[0])
	if want := `"tick": "` + first.Format(time.RFC3339) + `"`; err != nil || !strings.Contains(string(document), want) {
		t.Errorf("export: %v, no %s in %s", err, want, document)
	}
	if st := f.state(runs[0]); st.Tenant != "acme" {
		t.Errorf("got %+v", st)
	}
}

// Two that put the same schedule, at each start of theirs, change nothing.
func TestScheduleAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	o := workflow.ScheduleOptions{Name: "nightly", Cron: "0 3 * * *", Location: "Europe/Berlin", Jitter: time.Minute}
	s := f.schedule(false, o)
	before := f.count("SELECT xmin::text::bigint FROM stepward.schedule")
	f.schedule(false, o)
	if after := f.count("SELECT xmin::text::bigint FROM stepward.schedule"); after != before {
		t.Error("the row was written again")
	}
	st := s.status()
	if st.Workflow != "report" || string(st.Input) != "false" || st.Cron != o.Cron || st.Overlap != "skip" || st.CatchUp != 24*hour || st.Jitter != time.Minute || st.Next.IsZero() {
		t.Errorf("got %+v", st)
	}
	all, err := f.client.Schedules(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "nightly" {
		t.Errorf("got %+v, %v", all, err)
	}
}

// What is said of the runs is said of each, and may be changed.
func TestScheduleOptions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	o := workflow.ScheduleOptions{Name: "hourly", Every: hour, Tenant: "acme", Priority: 7, Timeout: 2 * hour,
		Attributes: map[string]any{"kind": "report", "level": 3}, Limit: workflow.Limit{Key: "reports", Rate: 5}, Project: "web", Environment: "prod"}
	s := f.schedule(true, o)
	before := f.count("SELECT xmin::text::bigint FROM stepward.schedule")
	f.schedule(true, o)
	if after := f.count("SELECT xmin::text::bigint FROM stepward.schedule"); after != before {
		t.Error("the row was written again")
	}
	st := s.status()
	if st.Priority != 7 || st.Timeout != 2*hour || st.Limit != (workflow.Limit{Key: "reports", Rate: 5, Per: time.Second}) || st.Attributes["kind"] != "report" || st.Attributes["level"] != int64(3) || st.Project != "web" || st.Environment != "prod" {
		t.Errorf("got %+v", st)
	}
	f.rewind("hourly", 2*hour)
	f.start(worker.Config{Workflows: []*workflow.Definition{reportV1}})
	s.advances()
	triggered, err := s.Trigger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, runs := s.ticks()
	for _, id := range append(runs, triggered) {
		r := f.state(id)
		left := time.Until(r.Deadline)
		if r.Tenant != "acme" || r.Priority != 7 || r.Limit != "reports" || r.Attributes["level"] != int64(3) || left < hour || left > 3*hour {
			t.Errorf("a run: %+v", r)
		}
		if f.count(`SELECT count(*) FROM stepward.binding WHERE run_id = $1 AND convert_from(body, 'UTF8')::jsonb -> 'place' @> '{"project": "web", "environment": "prod"}'`, int64(id)) != 1 {
			t.Errorf("run %v is not of its project and environment", id)
		}
	}
	o.Priority, o.Attributes, o.Project = -3, nil, "api"
	f.schedule(true, o)
	if st := s.status(); st.Priority != -3 || st.Attributes != nil || st.Project != "api" || st.Environment != "prod" {
		t.Errorf("after the change: %+v", st)
	}
	for field, change := range map[string]func(*workflow.ScheduleOptions){
		"Priority":              func(o *workflow.ScheduleOptions) { o.Priority = 1001 },
		"Timeout":               func(o *workflow.ScheduleOptions) { o.Timeout = -1 },
		"Limit.Key":             func(o *workflow.ScheduleOptions) { o.Limit.Key = "" },
		"Project":               func(o *workflow.ScheduleOptions) { o.Project = "a\x00" },
		"Environment":           func(o *workflow.ScheduleOptions) { o.Environment = "a\x00" },
		`Attributes["no name"]`: func(o *workflow.ScheduleOptions) { o.Attributes = map[string]any{"no name": 1} },
	} {
		bad := o
		change(&bad)
		var refused *workflow.OptionError
		if _, err := report.Schedule(t.Context(), f.client, true, bad); !errors.As(err, &refused) || refused.Option != "ScheduleOptions."+field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// After a time without workers, each tick within the window is enqueued, in
// order, and the older ones are counted.
func TestScheduleCatchUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.schedule(false, workflow.ScheduleOptions{Name: "hourly", Every: hour, Overlap: "allow", CatchUp: 15*hour + 30*time.Minute})
	next := s.status().Next
	f.rewind("hourly", 20*hour)
	f.start(worker.Config{Workflows: []*workflow.Definition{chainV1}}) // of whichever workflow
	st := s.advances()
	if !st.Next.Equal(next) && !st.Next.Equal(next.Add(hour)) {
		t.Errorf("next tick %s, want %s", st.Next, next)
	}
	ticks, _ := s.ticks()
	if int64(len(ticks))+st.Missed != int64(st.Next.Sub(next.Add(-20*hour))/hour) || len(ticks) < 15 || len(ticks) > 16 || st.Skipped != 0 {
		t.Errorf("%d runs, %+v", len(ticks), st)
	}
	for i, tick := range ticks {
		if want := st.Next.Add(time.Duration(i-len(ticks)) * hour); !tick.Equal(want) {
			t.Errorf("tick %d is %s, want %s", i, tick, want)
		}
	}
	if st.LastTick != ticks[len(ticks)-1] || st.LastRun == 0 {
		t.Errorf("got %+v", st)
	}
}

// What happens at a tick while the run of an earlier one goes on.
func TestScheduleOverlap(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, overlap string) (s scheduled, tick time.Time, run workflow.RunID) {
		f := newFixture(t)
		f.start(worker.Config{Workflows: []*workflow.Definition{reportV1}})
		s = f.schedule(true, workflow.ScheduleOptions{Name: "hourly", Every: hour, Overlap: overlap})
		tick = s.status().Next.Add(-hour)
		run, err := s.Trigger(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.rewind("hourly", hour)
		s.advances()
		return s, tick, run
	}
	t.Run("skip", func(t *testing.T) {
		s, _, run := start(t, "skip")
		if st := s.status(); st.Skipped != 1 || st.LastRun != run {
			t.Errorf("got %+v", st)
		}
		if _, runs := s.ticks(); len(runs) != 1 {
			t.Errorf("%d runs", len(runs))
		}
	})
	t.Run("allow", func(t *testing.T) {
		s, tick, run := start(t, "allow")
		if st := s.status(); st.Skipped != 0 || !st.LastTick.Equal(tick) || st.LastRun == run {
			t.Errorf("got %+v", st)
		}
		if st := s.state(run); !st.Finished.IsZero() {
			t.Errorf("got %+v", st)
		}
	})
	t.Run("buffer", func(t *testing.T) {
		s, tick, run := start(t, "buffer")
		if st := s.status(); !st.Waiting.Equal(tick) || st.Skipped != 0 || st.LastRun != run {
			t.Errorf("got %+v", st)
		}
		if err := printIt.Send(t.Context(), s.client, run, true); err != nil {
			t.Fatal(err)
		}
		s.follows(tick, run, workflow.StateCompleted)
	})
	t.Run("cancel", func(t *testing.T) {
		s, tick, run := start(t, "cancel")
		s.follows(tick, run, workflow.StateCanceled)
	})
}

// follows waits for the run of a tick, and checks that the one before had ended
// by then.
func (s scheduled) follows(tick time.Time, before workflow.RunID, how workflow.State) {
	s.t.Helper()
	eventually(s.t, "the tick that waited has a run", func() bool { return s.status().LastRun != before })
	st, old := s.status(), s.state(before)
	if !st.LastTick.Equal(tick) || !st.Waiting.IsZero() || st.Skipped != 0 {
		s.t.Errorf("got %+v", st)
	}
	if old.State != how || st.LastRun.Time().Before(old.Finished.Truncate(time.Millisecond)) {
		s.t.Errorf("it began when the other one was %+v", old)
	}
}

// A paused schedule enqueues nothing, and goes on with its next tick.
func TestSchedulePause(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.schedule(false, workflow.ScheduleOptions{Name: "hourly", Every: hour})
	other := f.schedule(false, workflow.ScheduleOptions{Name: "other", Every: hour})
	f.rewind("hourly", 3*hour)
	for range 2 {
		if err := s.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.status(); !st.Paused || !st.Next.IsZero() {
		t.Errorf("got %+v", st)
	}
	f.schedule(false, workflow.ScheduleOptions{Name: "hourly", Every: 2 * hour}) // and stays so
	f.start(worker.Config{Workflows: []*workflow.Definition{reportV1}})
	f.rewind("other", hour)
	other.advances()
	if st := s.status(); !st.Paused || !st.LastTick.IsZero() {
		t.Errorf("got %+v", st)
	}
	for range 2 {
		if err := s.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.status(); st.Paused || !st.Next.After(time.Now()) || st.Next.Unix()%7200 != 0 {
		t.Errorf("got %+v", st)
	}
	f.rewind("other", hour)
	other.advances()
	if ticks, _ := s.ticks(); len(ticks) != 1 { // of the other one, which has it once
		t.Errorf("ticks %v", ticks)
	}
}

// A run that is triggered starts whatever else runs, and is one that the next
// tick does not overlap.
func TestScheduleTrigger(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.schedule(true, workflow.ScheduleOptions{Name: "hourly", Every: hour})
	next := s.status().Next
	for range 2 {
		id, err := s.Trigger(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st := s.status(); st.LastRun != id || !st.Next.Equal(next) || time.Since(st.LastTick) > hour {
			t.Errorf("got %+v", st)
		}
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{reportV1}})
	f.rewind("hourly", hour)
	if st := s.advances(); st.Skipped != 1 {
		t.Errorf("got %+v", st)
	}
	if _, runs := s.ticks(); len(runs) != 2 {
		t.Errorf("%d runs", len(runs))
	}
	if err := s.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Trigger(t.Context()); err != nil {
		t.Errorf("while paused: %v", err)
	}
}

// A backfill adds what is missing, and nothing twice; nor does the schedule
// double what was backfilled.
func TestScheduleBackfill(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.schedule(false, workflow.ScheduleOptions{Name: "hourly", Every: hour, Overlap: "allow"})
	first := s.status().Next.Add(-3 * hour)
	f.rewind("hourly", 3*hour) // three ticks are due, and no worker is there
	fill := func(from, to time.Time, want int) {
		t.Helper()
		if n, err := s.Backfill(t.Context(), from, to); err != nil || n != want {
			t.Errorf("added %d, %v; want %d", n, err, want)
		}
	}
	fill(first, first.Add(hour), 2)
	fill(first.Add(-2*hour), first.Add(hour), 2)
	fill(first.Add(-2*hour), first.Add(hour), 0)
	f.start(worker.Config{Workflows: []*workflow.Definition{reportV1}})
	s.advances()
	s.has(first, 0, hour, -2*hour, -hour, 2*hour)
	fill(first.Add(-2*hour), first.Add(24*hour), 0) // what is to come comes by itself

	// Nor when the input is another one meanwhile.
	f.schedule(true, workflow.ScheduleOptions{Name: "hourly", Every: hour, Overlap: "allow"})
	fill(first.Add(-2*hour), first.Add(2*hour), 0)
	fill(first.Add(-4*hour), first.Add(2*hour), 2)

	var option *workflow.OptionError
	if _, err := s.Backfill(t.Context(), time.Time{}, time.Now()); !errors.As(err, &option) {
		t.Errorf("since the year 1: %v", err)
	}
	if _, err := s.Backfill(t.Context(), first, first.Add(-1)); !errors.As(err, &option) {
		t.Errorf("backwards: %v", err)
	}
}

// What was due is enqueued before other times apply, and with the input of
// then; the new times apply from now on.
func TestScheduleChange(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.schedule(true, workflow.ScheduleOptions{Name: "s", Every: hour, Jitter: hour, Overlap: "allow"})
	first := s.status().Next.Add(-14 * hour)
	f.rewind("s", 14*hour) // more than one transaction does
	f.exec("UPDATE stepward.schedule SET due_at = clock_timestamp() + interval '1 hour'")
	f.schedule(false, workflow.ScheduleOptions{Name: "s", Every: time.Minute, Overlap: "allow"})
	var want []time.Duration
	for i := range 14 {
		want = append(want, time.Duration(i)*hour)
	}
	s.has(first, want...)
	if n := f.count("SELECT count(*) FROM stepward.run WHERE input <> 'true'"); n != 0 {
		t.Errorf("%d runs have the new input", n)
	}
	st := s.status()
	if left := time.Until(st.Next); st.Every != time.Minute || left > 2*time.Minute || left < -time.Minute {
		t.Errorf("got %+v", st)
	}
	// Another policy alone leaves the next tick as it is.
	f.rewind("s", 2*time.Minute)
	due := s.status().Next
	f.schedule(false, workflow.ScheduleOptions{Name: "s", Every: time.Minute, Overlap: "skip"})
	if st := s.status(); !st.Next.Equal(due) || st.Overlap != "skip" {
		t.Errorf("got %+v, want the tick of %s", st, due)
	}
}

// A schedule that is deleted, or never was.
func TestScheduleDelete(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.schedule(true, workflow.ScheduleOptions{Name: "hourly", Every: hour})
	id, err := s.Trigger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, status := s.Status(t.Context())
	_, trigger := s.Trigger(t.Context())
	_, backfill := s.Backfill(t.Context(), time.Now(), time.Now())
	for i, err := range []error{status, trigger, backfill, s.Delete(t.Context()), s.Pause(t.Context()), s.Resume(t.Context())} {
		if !errors.Is(err, workflow.ErrNotFound) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if st := f.state(id); st.State != workflow.StateReady {
		t.Errorf("its run: %+v", st)
	}
}

// A schedule that cannot be served says why, is served after the cure, and keeps
// no other one waiting.
func TestScheduleProblem(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	secret := workflow.NewStep("secret", func(context.Context, bool) (time.Time, error) { return time.Time{}, nil }, workflow.StepOptions{Mode: workflow.Agent})
	secretive := workflow.Define(report, func(ctx workflow.Context, in bool) (time.Time, error) { return secret.Run(ctx, in) },
		workflow.Options{Version: "secret", Steps: []workflow.Declared{secret}})
	f.start(worker.Config{Workflows: []*workflow.Definition{secretive, chainV1}})
	eventually(t, "the workflow is defined", func() bool { return f.count("SELECT count(*) FROM stepward.definition") == 2 })

	moded := f.schedule(false, workflow.ScheduleOptions{Name: "a-mode", Every: hour})
	kind := f.schedule(false, workflow.ScheduleOptions{Name: "b-kind", Every: hour})
	fine, err := chain.Schedule(ctx, f.client, 3, workflow.ScheduleOptions{Name: "c-fine", Every: hour})
	if err != nil {
		t.Fatal(err)
	}
	f.exec(`UPDATE stepward.schedule SET spec = '{"every":3600000000000,"catch_up":3600000000000,"overlap":"guess"}' WHERE name = 'b-kind'`)
	f.exec("UPDATE stepward.schedule SET tick_at = tick_at - interval '1 hour', due_at = tick_at - interval '1 hour'")
	eventually(t, "the problems are on record", func() bool { return moded.status().Problem != "" && kind.status().Problem != "" })
	scheduled{f, fine}.advances()
	if n := f.count("SELECT count(*) FROM stepward.run WHERE tick IS NOT NULL"); n != 1 {
		t.Errorf("%d runs", n)
	}
	kind = f.schedule(false, workflow.ScheduleOptions{Name: "b-kind", Every: hour, Overlap: "buffer"})
	if st := kind.status(); st.Problem != "" || !st.Next.After(time.Now()) { // nobody knows what its tick was
		t.Errorf("got %+v", st)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{reportV1}, Name: "cure"})
	if st := moded.advances(); st.Problem != "" || st.LastRun == 0 {
		t.Errorf("got %+v", st)
	}
}

// A worker that freezes while it ticks holds the schedule up for seconds only.
func TestScheduleFrozenWorker(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	s := f.schedule(false, workflow.ScheduleOptions{Name: "hourly", Every: hour})
	f.rewind("hourly", hour)
	frozen, err := f.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Rollback(context.Background())
	q, err := db.New(f.schema)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := frozen.Query(ctx, q.ScheduleDue, 1, []string{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for rows.Next() {
		n++
	}
	if rows.Close(); n != 1 || rows.Err() != nil {
		t.Fatalf("locked %d, %v", n, rows.Err())
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{reportV1}})
	s.advances()
	if _, err := frozen.Exec(ctx, "SELECT 1"); err == nil {
		t.Error("its transaction goes on")
	}
}

// The input of a schedule is stored as a codec encodes it, and the same input
// again is no change although its encoding differs.
func TestScheduleCodec(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ring := newRing(t, "key")
	f.encodes(ring)
	o := workflow.ScheduleOptions{Name: "hourly", Every: hour}
	s := f.schedule(false, o)
	before := f.count("SELECT xmin::text::bigint FROM stepward.schedule")
	f.schedule(false, o)
	if after := f.count("SELECT xmin::text::bigint FROM stepward.schedule"); after != before {
		t.Error("the row was written again")
	}
	if n := f.count("SELECT count(*) FROM stepward.schedule WHERE input = 'false'"); n != 0 {
		t.Error("the input is there for all to read")
	}
	if st := s.status(); string(st.Input) != "false" || st.Problem != "" {
		t.Errorf("got %+v", st)
	}
	f.start(worker.Config{Codec: ring, Workflows: []*workflow.Definition{reportV1}})
	f.rewind("hourly", hour)
	st := s.advances()
	if out, err := outcome(t, f.client, report.Handle(f.client, st.LastRun)); err != nil || !out.Equal(st.LastTick) {
		t.Errorf("got %s, %v; want %s", out, err, st.LastTick)
	}
	f.encodes(newRing(t, "another key"))
	if all, err := f.client.Schedules(t.Context()); err != nil || len(all) != 1 || len(all[0].Input) != 0 || all[0].Problem == "" {
		t.Errorf("with another key: %+v, %v", all, err)
	}
}

// What cannot be scheduled is refused by name, and nothing is written.
func TestScheduleRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	for option, o := range map[string]workflow.ScheduleOptions{
		"Name":     {Name: "no good", Every: hour},
		"Tenant":   {Name: "s", Tenant: "a\x00b", Every: hour},
		"Cron":     {Name: "s", Cron: "0 0 30 2 *"},
		"Every":    {Name: "s", Every: time.Millisecond},
		"Location": {Name: "s", Cron: "@daily", Location: "Mars/Olympus"},
		"Overlap":  {Name: "s", Every: hour, Overlap: "queue"},
		"CatchUp":  {Name: "s", Every: hour, CatchUp: time.Second},
		"Jitter":   {Name: "s", Every: hour, Jitter: -1},
	} {
		_, err := report.Schedule(ctx, f.client, false, o)
		var bad *workflow.OptionError
		if !errors.As(err, &bad) || bad.Option != "ScheduleOptions."+option {
			t.Errorf("%s: %v", option, err)
		}
	}
	var size *workflow.ValueError
	text := workflow.DurableWorkflow[string, string]{Name: "text"}
	if _, err := text.Schedule(ctx, f.client, strings.Repeat("x", 64<<10), workflow.ScheduleOptions{Name: "s", Every: hour}); !errors.As(err, &size) || size.Kind != "size" {
		t.Errorf("a large input: %v", err)
	}
	var definition *workflow.DefinitionError
	if _, err := (workflow.DurableWorkflow[string, string]{}).Schedule(ctx, f.client, "", workflow.ScheduleOptions{Name: "s", Every: hour}); !errors.As(err, &definition) {
		t.Errorf("no workflow: %v", err)
	}
	if all, err := f.client.Schedules(ctx); err != nil || len(all) != 0 {
		t.Errorf("got %+v, %v", all, err)
	}
}
