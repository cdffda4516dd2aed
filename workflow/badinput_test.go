package workflow_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stepward/stepward/workflow"
)

// What a program has computed or put together wrongly is an error that names it,
// wherever the call would have met it.
func TestBadInput(t *testing.T) {
	f := newFixture(t)
	ctx, c := t.Context(), f.client
	pages := workflow.Stream[int]{Name: "pages"}
	run := f.enqueue(1, workflow.EnqueueOptions{})
	for name, test := range map[string]struct {
		call func() error
		want string
	}{
		"Each without a function": {func() error { _, err := c.Each(ctx, workflow.RunFilter{}, nil); return err }, "Each"},
		"Repin to NUL":            {func() error { return c.Repin(ctx, run.ID, "a\x00b") }, "version to repin to"},
		"Repin to no UTF-8":       {func() error { return c.Repin(ctx, run.ID, "\xff") }, "version to repin to"},
		"result of no handle":     {func() error { _, err := workflow.Run[int]{}.Result(ctx); return err }, "Handle"},
		"cancel of no handle":     {func() error { return workflow.Run[int]{ID: run.ID}.Cancel(ctx) }, "Handle"},
		"schedule of no handle":   {func() error { return workflow.Schedule{Name: "x"}.Pause(ctx) }, "x"},
		"status of no handle":     {func() error { _, err := workflow.Schedule{Name: "x"}.Status(ctx); return err }, "x"},
		"Replay without":          {func() error { return c.Replay(ctx, run.ID, nil) }, "not made by Define"},
		"Replay of a zero":        {func() error { return c.Replay(ctx, run.ID, &workflow.Definition{}) }, "not made by Define"},
		"Steps after -1":          {func() error { _, err := c.Steps(ctx, run.ID, -1); return err }, "afterSeq"},
		"Read after -1":           {func() error { _, _, err := pages.Read(ctx, c, run.ID, -1, 0); return err }, "offset in stream pages"},
		"Read of -1 entries":      {func() error { _, _, err := pages.Read(ctx, c, run.ID, 0, -1); return err }, "limit of stream pages"},
		"Migrate without a pool":  {func() error { return workflow.Migrate(ctx, nil, workflow.MigrateOptions{}) }, "pool"},
	} {
		err := test.call()
		_, option := errors.AsType[*workflow.OptionError](err)
		_, definition := errors.AsType[*workflow.DefinitionError](err)
		if !option && !definition && !errors.Is(err, workflow.ErrNotFound) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %T, %v; %q is wanted in it", name, err, err, test.want)
		}
	}
}

// A function that panics in Each does so where its caller can recover it, once the
// other calls are over.
func TestEachPanics(t *testing.T) {
	f := newFixture(t)
	for i := range 3 {
		f.enqueue(i, workflow.EnqueueOptions{})
	}
	defer func() {
		if p, ok := recover().(string); !ok || !strings.HasPrefix(p, "mine") || !strings.Contains(p, "TestEachPanics") {
			t.Errorf("recovered %v", p)
		}
	}()
	_, err := f.client.Each(t.Context(), workflow.RunFilter{}, func(context.Context, workflow.RunID) error { panic("mine") })
	t.Errorf("returned %v", err)
}
