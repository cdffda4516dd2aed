package worker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// What came before a time was over is handed over before it, however late a worker
// looks: the time of what waits is put into the past meanwhile.
func TestInTime(t *testing.T) {
	t.Parallel()
	timed := func(err error, out int) (int, error) {
		if errors.Is(err, workflow.ErrTimeout) {
			return -1, nil
		}
		return out, err
	}
	receive := func(ctx workflow.Context, n int) (int, error) {
		_, err := note.Receive(ctx, time.Hour)
		return timed(err, n)
	}
	kid := workflow.DurableWorkflow[int, int]{Name: "kid"}
	for name, c := range map[string]struct {
		body  func(workflow.Context, int) (int, error)
		away  bool // the worker is stopped meanwhile; false: the run is paused
		comes func(*fixture, workflow.RunID)
		want  int
	}{
		"a signal, workers away": {receive, true, (*fixture).sendNote, 7},
		"a signal, run paused":   {receive, false, (*fixture).sendNote, 7},
		"nothing, workers away":  {receive, true, func(*fixture, workflow.RunID) {}, -1},
		"nothing, run paused":    {receive, false, func(*fixture, workflow.RunID) {}, -1},
		"a signal, within a time": {func(ctx workflow.Context, n int) (int, error) {
			in, cancel := ctx.WithTimeout(time.Hour)
			defer cancel()
			_, err := note.Receive(in, 0)
			return timed(err, n)
		}, true, (*fixture).sendNote, 7},
		"a signal, beside a sleep": {func(ctx workflow.Context, n int) (int, error) {
			sleep := workflow.Go(ctx, "sleep", func(ctx workflow.Context) (string, error) { return "", workflow.Sleep(ctx, time.Hour) })
			for i, f := range workflow.Ready(ctx, sleep, note.Go(ctx, 0)) {
				if _, err := f.Get(ctx); i == 0 || err != nil {
					return -1, err
				}
				break
			}
			return n, nil
		}, true, (*fixture).sendNote, 7},
		"a child, within a time": {func(ctx workflow.Context, n int) (int, error) {
			in, cancel := ctx.WithTimeout(time.Hour)
			defer cancel()
			_, err := kid.Run(in, n)
			return timed(err, n)
		}, true, func(f *fixture, _ workflow.RunID) {
			stop := f.start(worker.Config{Name: "other", Workflows: []*workflow.Definition{workflow.Define(kid, func(_ workflow.Context, n int) (int, error) { return n, nil }, workflow.Options{})}})
			eventually(f.t, "the child has ended", func() bool {
				return f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kid' AND state = 'completed'") == 1
			})
			stop()
		}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			cfg := worker.Config{Workflows: []*workflow.Definition{workflow.Define(changing, c.body, workflow.Options{})}}
			run := f.enqueue(7)
			stop := f.start(cfg)
			f.waits(run.ID)
			if c.away {
				stop()
			} else if err := f.client.Pause(t.Context(), run.ID); err != nil {
				t.Fatal(err)
			}
			c.comes(f, run.ID)
			f.exec("UPDATE stepward.wait SET wake_at = clock_timestamp() - interval '1 second' WHERE wake_at IS NOT NULL")
			f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp() - interval '1 second'")
			if c.away {
				f.start(cfg)
			} else if err := f.client.Resume(t.Context(), run.ID); err != nil {
				t.Fatal(err)
			}
			ends(t, f.client, run, c.want)
		})
	}
}

func (f *fixture) sendNote(id workflow.RunID) {
	f.t.Helper()
	if err := note.Send(f.t.Context(), f.client, id, "yes"); err != nil {
		f.t.Fatal(err)
	}
}

// Of times that were over while nobody executed the run, the earlier one comes first.
func TestOverdueInOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cfg := worker.Config{Workflows: []*workflow.Definition{workflow.Define(changing, func(ctx workflow.Context, n int) (int, error) {
		in, cancel := ctx.WithTimeout(2 * time.Hour)
		defer cancel()
		return n, workflow.Sleep(in, time.Hour)
	}, workflow.Options{})}}
	run := f.enqueue(7)
	stop := f.start(cfg)
	f.waits(run.ID)
	stop()
	f.exec("UPDATE stepward.wait SET wake_at = wake_at - interval '1 day'")
	f.exec("UPDATE stepward.timer SET wake_at = wake_at - interval '1 day'")
	f.start(cfg)
	ends(t, f.client, run, 7)
}

// With a timeout that has passed, Receive takes what is there, and waits for nothing.
func TestReceiveWhatIsThere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run := f.enqueue(7)
	for range 3 {
		f.sendNote(run.ID)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{workflow.Define(changing, func(ctx workflow.Context, n int) (int, error) {
		for got := 0; ; got++ {
			if _, err := note.Receive(ctx, -1); errors.Is(err, workflow.ErrTimeout) {
				return got, nil
			} else if err != nil {
				return 0, err
			}
		}
	}, workflow.Options{})}})
	ends(t, f.client, run, 3)
}
