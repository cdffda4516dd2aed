package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// The first mirror that answers is enough; the others are interrupted. Which one
// it was is on record, and the same on a replay.
func ExampleReady() {
	fetch := workflow.NewStep("fetch", func(ctx context.Context, mirror string) (string, error) {
		switch mirror {
		case "broken":
			return "", workflow.Permanent(errors.New("404 Not Found"))
		case "slow":
			<-ctx.Done() // until it is interrupted
			return "", ctx.Err()
		}
		return "a page from " + mirror, nil
	}, workflow.StepOptions{})
	download := workflow.DurableWorkflow[[]string, string]{Name: "download"}
	definition := workflow.Define(download, func(ctx workflow.Context, mirrors []string) (string, error) {
		racing, stop := ctx.WithCancel()
		defer stop()
		var answers []*workflow.Future[string]
		for _, mirror := range mirrors {
			answers = append(answers, fetch.Go(racing, mirror))
		}
		for _, answer := range workflow.Ready(ctx, answers...) {
			if page, err := answer.Get(ctx); err == nil {
				return page, nil
			}
		}
		return "", errors.New("no mirror answers")
	}, workflow.Options{Steps: []workflow.Declared{fetch}})

	fmt.Println(workflowtest.Run(download, definition, []string{"broken", "slow", "near"}))
	// Output: a page from near <nil>
}

// Branches are functions that go on side by side. They take turns between durable
// calls, so they may share variables.
func ExampleGo() {
	pack := workflow.NewStep("pack", mail[string], workflow.StepOptions{})
	charge := workflow.NewStep("charge", mail[string], workflow.StepOptions{})
	order := workflow.DurableWorkflow[string, []string]{Name: "order"}
	definition := workflow.Define(order, func(ctx workflow.Context, what string) ([]string, error) {
		var done []string // of both
		branch := func(name string, step *workflow.Step[string, string]) *workflow.Future[string] {
			return workflow.Go(ctx, name, func(ctx workflow.Context) (string, error) {
				out, err := step.Run(ctx, what)
				done = append(done, name)
				return out, err
			})
		}
		parcel, money := branch("parcel", pack), branch("money", charge)
		_, err := parcel.Get(ctx)
		_, err2 := money.Get(ctx)
		slices.Sort(done)
		return done, errors.Join(err, err2)
	}, workflow.Options{Steps: []workflow.Declared{pack, charge}})

	e := workflowtest.New(nil, definition)
	fmt.Println(workflowtest.Execute(e, order, "tea"))
	fmt.Print(e.Record())
	// Output:
	// [money parcel] <nil>
	// parcel/pack = "a mail to tea"
	// money/charge = "a mail to tea"
}

// Each item has a branch of its own with several calls in it, two items at a time.
func ExampleMapFunc() {
	resize := workflow.NewStep("resize", mail[string], workflow.StepOptions{})
	upload := workflow.NewStep("upload", mail[string], workflow.StepOptions{})
	album := workflow.DurableWorkflow[[]string, int]{Name: "album"}
	definition := workflow.Define(album, func(ctx workflow.Context, photos []string) (int, error) {
		urls, err := workflow.MapFunc(ctx, "photo", photos, func(ctx workflow.Context, photo string) (string, error) {
			small, err := resize.Run(ctx, photo)
			if err != nil {
				return "", err
			}
			return upload.Run(ctx, small)
		}, workflow.MapOptions{Limit: 2})
		return len(urls), err
	}, workflow.Options{Steps: []workflow.Declared{resize, upload}})

	e := workflowtest.New(nil, definition)
	fmt.Println(workflowtest.Execute(e, album, []string{"cat", "dog", "sea"}))
	for _, s := range e.Steps()[:2] {
		fmt.Println(s.Step)
	}
	// Output:
	// 3 <nil>
	// photo[0]/resize
	// photo[1]/resize
}
