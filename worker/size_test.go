package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

var (
	swell   = workflow.DurableWorkflow[string, string]{Name: "swell"}
	swollen = strings.Repeat("x", 2000)
	grows   = workflow.NewStep("grows", func(_ context.Context, in string) (string, error) { return in + swollen, nil }, workflow.StepOptions{})
	growsTx = workflow.NewTxStep("growstx", func(_ context.Context, _ pgx.Tx, in string) (string, error) { return in + swollen, nil }, workflow.StepOptions{})

	swellV1 = workflow.Define(swell, func(ctx workflow.Context, at string) (out string, err error) {
		switch at {
		case "input of step grows":
			_, err = grows.Run(ctx, swollen)
		case "output of step grows":
			_, err = grows.Run(ctx, "")
		case "output of step growstx":
			_, err = growsTx.Run(ctx, "")
		case "input of child:swell":
			_, err = swell.Run(ctx, swollen)
		case "input of workflow swell":
			err = swell.ContinueAsNew(swollen)
		case "output of workflow swell":
			out = swollen
		}
		return out, err
	}, workflow.Options{Steps: []workflow.Declared{grows, growsTx}})
)

// A value over the limit is refused wherever it enters, by an error that says
// which it is.
func TestSizes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{MaxBytes: 1000, Workflows: []*workflow.Definition{swellV1}})
	for _, at := range []string{"input of step grows", "output of step grows", "output of step growstx", "input of child:swell", "input of workflow swell", "output of workflow swell"} {
		run, err := swell.Enqueue(t.Context(), f.client, at, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = outcome(t, f.client, run)
		var failed *workflow.RecordedError
		if !errors.As(err, &failed) || failed.Kind != "size" || !strings.Contains(failed.Message, at+" is ") {
			t.Errorf("%s: %v", at, err)
		}
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: f.pool, Schema: f.schema, MaxBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	run, err := relay.Enqueue(t.Context(), client, "a", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tx := f.begin()
	_, enqueueErr := swell.Enqueue(t.Context(), client, swollen, workflow.EnqueueOptions{})
	_, enqueueTxErr := swell.EnqueueTx(t.Context(), client, tx, swollen, workflow.EnqueueOptions{})
	for what, err := range map[string]error{
		"input of workflow swell": enqueueErr, "input of workflow swell ": enqueueTxErr,
		"signal tweet": tweet.Send(t.Context(), client, run.ID, swollen), "signal tweet ": tweet.SendTx(t.Context(), client, tx, run.ID, swollen),
	} {
		var size *workflow.ValueError
		if !errors.As(err, &size) || size.What != strings.TrimSpace(what) || size.Limit != 1000 || size.Bytes != 2002 {
			t.Errorf("%s: %v", what, err)
		}
	}
	var option *workflow.OptionError
	if _, err := workflow.NewClient(workflow.ClientConfig{Pool: f.pool, MaxBytes: 65 << 20}); !errors.As(err, &option) {
		t.Errorf("a limit that is too high: %v", err)
	}
	if err := worker.Run(t.Context(), worker.Config{Pool: f.pool, MaxBytes: 65 << 20, Workflows: []*workflow.Definition{swellV1}}); err == nil || !strings.Contains(err.Error(), "MaxBytes") {
		t.Errorf("a limit that is too high: %v", err)
	}
}

// An error with a long text is stored with the beginning of it, and says so.
func TestLongErrorIsCut(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := workflow.DurableWorkflow[int, int]{Name: "longwinded"}
	def := workflow.Define(w, func(workflow.Context, int) (int, error) { return 0, errors.New(strings.Repeat("é", 1<<20)) }, workflow.Options{})
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	run, err := w.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = outcome(t, f.client, run)
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) || len(failed.Message) > 17<<10 || !strings.HasSuffix(failed.Message, "bytes cut off)") {
		t.Errorf("got %.100v", err)
	}
}

// A name that cannot be in a key is refused wherever it is given.
func TestBadNames(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	long := strings.Repeat("x", 10<<10)
	bad := []string{"", "nul\x00", long, "\xff", "colon:"}
	w := workflow.DurableWorkflow[int, int]{Name: "names"}
	var name string
	bodies := map[string]func(workflow.Context) error{
		"Go": func(ctx workflow.Context) error {
			_, err := workflow.Go(ctx, name, func(workflow.Context) (int, error) { return 0, nil }).Get(ctx)
			return err
		},
		"MapFunc": func(ctx workflow.Context) error {
			_, err := workflow.MapFunc(ctx, name, []int{1}, func(_ workflow.Context, n int) (int, error) { return n, nil }, workflow.MapOptions{})
			return err
		},
		"Patched": func(ctx workflow.Context) error {
			ctx.Patched(name)
			return nil
		},
	}
	for what, body := range bodies {
		for _, name = range append(bad, "branch/step") { // the key of a step in a branch
			def := workflow.Define(w, func(ctx workflow.Context, _ int) (int, error) { return 0, body(ctx) }, workflow.Options{})
			stop := f.start(worker.Config{Workflows: []*workflow.Definition{def}})
			run, err := w.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if s := f.parksAs(run.ID, "bad_name"); !strings.Contains(s.Err.Message, "name of a") {
				t.Errorf("%s with name %.20q: %v", what, name, s.Err)
			}
			stop()
			if err := run.Cancel(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	run := f.enqueue(1)
	for _, name := range bad {
		_, enqueueErr := workflow.DurableWorkflow[int, int]{Name: name}.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
		var definition *workflow.DefinitionError
		if !errors.As(enqueueErr, &definition) {
			t.Errorf("workflow %.20q: %v", name, enqueueErr)
		}
		var option *workflow.OptionError
		if err := workflow.NewSignal[int](name).Send(t.Context(), f.client, run.ID, 1); !errors.As(err, &option) || !strings.Contains(option.Option, "name of a signal") {
			t.Errorf("signal %.20q: %v", name, err)
		}
		step := workflow.NewStep(name, keepIt, workflow.StepOptions{})
		err := worker.Run(t.Context(), worker.Config{Pool: f.pool, Workflows: []*workflow.Definition{
			workflow.Define(w, func(workflow.Context, int) (int, error) { return 0, nil }, workflow.Options{Version: name + ":", Steps: []workflow.Declared{step}})}})
		if !errors.As(err, &definition) || !strings.Contains(err.Error(), "bad version") || !strings.Contains(fmt.Sprint(err), "bad name") {
			t.Errorf("step and version %.20q: %v", name, err)
		}
	}
	slash := workflow.NewStep("branch/step", keepIt, workflow.StepOptions{})
	err := worker.Run(t.Context(), worker.Config{Pool: f.pool, Workflows: []*workflow.Definition{defines(passes(slash), slash)}})
	if definition, ok := errors.AsType[*workflow.DefinitionError](err); !ok || definition.Step != "branch/step" {
		t.Errorf("a step with a slash: %v", err)
	}
	for _, text := range []string{"nul\x00", long, "\xff"} {
		for _, o := range []workflow.EnqueueOptions{{Tenant: text}, {Key: text}} {
			var option *workflow.OptionError
			if _, err := w.Enqueue(t.Context(), f.client, 1, o); !errors.As(err, &option) {
				t.Errorf("%.40v: %v", o, err)
			}
		}
	}
}
