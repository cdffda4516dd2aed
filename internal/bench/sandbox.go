package main

import (
	"context"

	"github.com/stepward/stepward/workflow"
)

var guest = workflow.DurableWorkflow[int, int]{Name: "guest"}

var guestStep = workflow.NewStep("guest", func(_ context.Context, n int) (int, error) { return n + 1, nil }, workflow.StepOptions{Mode: workflow.Sandboxed})

var guestV1 = workflow.Define(guest, func(ctx workflow.Context, n int) (int, error) { return guestStep.Run(ctx, n) },
	workflow.Options{Steps: []workflow.Declared{guestStep}})

func benchSandbox(ctx context.Context, b *bench) error { return nil }

func hello() {}
