// Package workflow has the shapes that the analyzer knows.
package workflow

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

type Context interface {
	Logger() *slog.Logger
	Now() time.Time
	Random() *rand.Rand
	Finally(fn func(Context) error)
	WithTimeout(d time.Duration) (Context, func())
}

type DurableWorkflow[In, Out any] struct{ Name string }

type Options struct{}

type StepOptions struct{}

type MapOptions struct{}

type Definition struct{}

type Step[In, Out any] struct{}

func (s *Step[In, Out]) Run(ctx Context, in In) (out Out, err error) { return out, err }

func NewStep[In, Out any](name string, fn func(context.Context, In) (Out, error), o StepOptions) *Step[In, Out] {
	return nil
}

func Define[In, Out any](w DurableWorkflow[In, Out], body func(Context, In) (Out, error), o Options) *Definition {
	return nil
}

type Future[Out any] struct{}

func Go[Out any](ctx Context, name string, fn func(Context) (Out, error)) *Future[Out] { return nil }

func MapFunc[In, Out any](ctx Context, name string, items []In, fn func(Context, In) (Out, error), o MapOptions) ([]Out, error) {
	return nil, nil
}

func Sleep(ctx Context, d time.Duration) error { return nil }
