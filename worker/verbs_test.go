package worker_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// refuses reports whether a verb may answer so when another one was faster.
func refuses(err error) bool {
	_, moved := errors.AsType[*workflow.StateError](err)
	return moved || errors.Is(err, workflow.ErrCanceled)
}

// TestVerbs lets random verbs meet each other, a worker that is at the run, and
// its end. In the end every run has ended once, nothing is left of it, and no
// step was recorded that its state does not allow.
func TestVerbs(t *testing.T) {
	t.Parallel()
	checks(t, 5)
	for _, name := range []string{"a", "b", "c"} { // each waits for its workers most of the time
		t.Run(name, func(t *testing.T) { t.Parallel(); testVerbs(t) })
	}
}

func testVerbs(t *testing.T) {
	f := newFixture(t)
	kid := workflow.DurableWorkflow[int, int]{Name: "kid"}
	brief := workflow.NewStep("brief", func(ctx context.Context, n int) (int, error) {
		if n%5 == 4 {
			return 0, workflow.Permanent(errors.New("bad luck"))
		}
		return n, nil
	}, workflow.StepOptions{})
	body := func(ctx workflow.Context, n int) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := double.Run(ctx, n); return err })
		if n, err := brief.Run(ctx, n); err != nil {
			return n, err
		}
		if n%3 == 0 {
			if _, err := kid.Run(ctx, n+1); err != nil {
				return 0, err
			}
		}
		if n%2 == 0 {
			if _, err := note.Receive(ctx, 0); err != nil {
				return 0, err
			}
		}
		_, err := workflow.Map(ctx, []int{0, 1, 2}, brief, workflow.MapOptions{})
		return n, err
	}
	steps := workflow.Options{Steps: []workflow.Declared{brief, double}}
	two := steps
	two.Version = "2"
	kidV1 := workflow.Define(kid, func(ctx workflow.Context, n int) (int, error) {
		_, err := note.Receive(ctx, time.Hour)
		return n, err
	}, workflow.Options{})
	defs := []*workflow.Definition{workflow.Define(changing, body, steps), workflow.Define(changing, body, two), kidV1}
	stop := f.start(worker.Config{Name: "one", Workflows: defs})
	f.start(worker.Config{Name: "two", Workflows: defs})
	eventually(t, "the versions are defined", func() bool { return f.count("SELECT count(*) FROM stepward.definition") == 3 })

	verbs := map[string]func(context.Context, workflow.RunID) error{
		"cancel": f.client.Cancel, "terminate": f.client.Terminate, "pause": f.client.Pause, "resume": f.client.Resume, "retry": f.client.Retry,
		"send":  func(ctx context.Context, id workflow.RunID) error { return note.Send(ctx, f.client, id, "x") },
		"repin": func(ctx context.Context, id workflow.RunID) error { return f.client.Repin(ctx, id, "1") },
		"back":  func(ctx context.Context, id workflow.RunID) error { return f.client.Repin(ctx, id, "2") },
	}
	var names []string
	for name := range verbs {
		names = append(names, name)
	}
	slices.Sort(names)
	rapid.Check(t, func(rt *rapid.T) {
		ns := rapid.SliceOfN(rapid.IntRange(0, 30), 1, 4).Draw(rt, "runs")
		// Rounds of verbs that meet: those of a round begin together.
		rounds := rapid.SliceOfN(rapid.SliceOfN(rapid.SampledFrom(names), 1, 3), 1, 5).Draw(rt, "verbs")
		var runs []workflow.Run[int]
		for _, n := range ns {
			run, err := changing.Enqueue(t.Context(), f.client, n, workflow.EnqueueOptions{})
			if err != nil {
				rt.Fatal(err)
			}
			runs = append(runs, run)
		}
		errs := make(chan error, 1000)
		for _, round := range rounds {
			if rapid.Bool().Draw(rt, "in between") {
				eventually(t, "the run is claimed", func() bool { return f.state(runs[0].ID).State != workflow.StateReady })
			}
			var all sync.WaitGroup
			for _, name := range round {
				for _, run := range runs {
					all.Go(func() {
						err := verbs[name](t.Context(), run.ID)
						if err != nil && !refuses(err) {
							errs <- fmt.Errorf("%s: %w", name, err)
						}
					})
				}
			}
			all.Wait()
			if t.Failed() {
				rt.Fatal("see above")
			}
			f.consistent(rt)
		}
		close(errs)
		for err := range errs {
			rt.Error(err)
		}
		// All that has not ended is let go on, and is then ended or completes.
		for i, run := range runs {
			eventually(t, "the run ends", func() bool {
				for _, err := range []error{f.client.Resume(t.Context(), run.ID), note.Send(t.Context(), f.client, run.ID, "x")} {
					if err != nil && !refuses(err) {
						rt.Fatal(err)
					}
				}
				s := f.state(run.ID)
				if s.State == workflow.StateWaiting { // for the child: one of the two ends
					which := workflow.RunFilter{Workflow: "kid"}
					if i%2 == 0 {
						which = workflow.RunFilter{Workflow: "changing", State: workflow.StateWaiting}
					}
					if _, err := f.client.Each(t.Context(), which, f.client.Terminate); err != nil {
						rt.Fatal(err)
					}
				}
				return !s.Finished.IsZero()
			})
			if kinds := f.kinds(run.ID); count(kinds, "run.completed", "run.failed", "run.canceled") != 1+count(kinds, "run.retry") {
				rt.Errorf("%v ended more than once, or not: %v", run.ID, kinds)
			}
		}
		if _, err := f.client.Each(t.Context(), workflow.RunFilter{Workflow: "kid"}, f.client.Terminate); err != nil {
			rt.Fatal(err)
		}
		f.nothingLeft()
		f.consistent(rt)
	})
	stop()
}

func count(s []string, of ...string) (n int) {
	for _, x := range s {
		if slices.Contains(of, x) {
			n++
		}
	}
	return n
}

// judge is how a random case fails.
type judge interface {
	Fatal(...any)
	Fatalf(string, ...any)
}

// consistent checks what holds at any moment: a live run is at exactly one
// place, one that has ended is nowhere, and one that is paused is not to be
// claimed.
func (f *fixture) consistent(rt judge) {
	var wrong string
	if err := f.pool.QueryRow(context.Background(), f.sql(`
		WITH place AS (
			SELECT run_id, 'ready' AS name FROM stepward.ready UNION ALL SELECT run_id, 'turn' FROM stepward.turn
			UNION ALL SELECT run_id, 'timer' FROM stepward.timer UNION ALL SELECT run_id, 'parked' FROM stepward.parked
		)
		SELECT coalesce(string_agg(t, '; '), '') FROM (
			SELECT r.id || ' ' || r.state || ' pause ' || r.pause || ' in ' || coalesce(string_agg(place.name, ','), 'nothing') AS t
			FROM stepward.run r LEFT JOIN place ON place.run_id = r.id GROUP BY r.id
			HAVING count(place.name) <> CASE WHEN r.state = 'live' THEN 1 ELSE 0 END
			    OR r.pause AND bool_or(place.name NOT IN ('parked', 'turn'))
		) x`)).Scan(&wrong); err != nil {
		rt.Fatal(err)
	}
	if wrong != "" {
		rt.Fatal(wrong)
	}
}

// checks sets how many checks rapid makes, unless the command says so.
func checks(t *testing.T, n int) {
	t.Helper()
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "rapid.checks" })
	if set {
		return
	}
	f := flag.Lookup("rapid.checks")
	if err := f.Value.Set(fmt.Sprint(n)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Value.Set(f.DefValue) })
}
