//go:build unix

package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/stepward/stepward/workflow"
)

// A part of a random workflow. Its value is a number that the model knows.
type part struct {
	Op    string
	N     int    `json:",omitempty"`
	Parts []part `json:",omitempty"`
}

// bulky is how many bytes are kept apart from what refers to them.
const bulky = 80 << 10

// A program is the input of a random run: a part that it executes again and again,
// beginning anew each time.
type program struct {
	App   string // the schema of the application's tables
	Pad   string `json:",omitempty"` // makes it large
	Part  part
	Again int
	Sum   int // of the times before
}

var (
	random = workflow.DurableWorkflow[program, int]{Name: "random"}
	child  = workflow.DurableWorkflow[program, int]{Name: "random-child"}
	coin   = workflow.NewSignal[int]("coin")
	unsent = workflow.NewSignal[int]("never-sent")

	plus = workflow.NewStep("plus", func(_ context.Context, n int) (int, error) { return n + 1, nil }, workflow.StepOptions{})
	odd  = workflow.NewStep("odd", func(ctx context.Context, n int) (int, error) {
		if info, _ := workflow.StepInfoFrom(ctx); info.Attempt <= n%3 {
			return 0, fmt.Errorf("attempt %d fails", info.Attempt)
		}
		return n, nil
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 100, Backoff: time.Millisecond}})
	long = workflow.NewStep("long", func(_ context.Context, n int) (string, error) {
		return strings.Repeat("x", bulky+n), nil // a value that is kept apart
	}, workflow.StepOptions{})
	never = workflow.NewStep("never", func(context.Context, int) (int, error) {
		return 0, workflow.Permanent(errors.New("never"))
	}, workflow.StepOptions{})

	// What these do is the application's, and happens once for each checkpoint.
	pay   = workflow.NewTxStep("pay", payment, workflow.StepOptions{})
	mop   = workflow.NewTxStep("mop", payment, workflow.StepOptions{})
	lucky = workflow.NewTxStep("lucky", func(ctx context.Context, tx pgx.Tx, p program) (int, error) {
		var bad bool
		if err := tx.QueryRow(ctx, "SELECT bad FROM "+p.App+".luck").Scan(&bad); err != nil {
			return 0, err
		}
		if bad {
			return 0, workflow.Permanent(errors.New("bad luck"))
		}
		return p.Part.N, nil
	}, workflow.StepOptions{})

	randomSteps = []workflow.Declared{plus, odd, long, never, pay, mop, lucky}
	randomV1    = workflow.Define(random, execute(random), workflow.Options{Steps: randomSteps})
	childV1     = workflow.Define(child, execute(child), workflow.Options{Steps: randomSteps})
)

func payment(ctx context.Context, tx pgx.Tx, p program) (int, error) {
	info, _ := workflow.StepInfoFrom(ctx)
	_, err := tx.Exec(ctx, "INSERT INTO "+p.App+".paid VALUES ($1, $2)", int64(info.Run), info.Step)
	return p.Part.N, err
}

// execute is the body of a random workflow.
func execute(w workflow.DurableWorkflow[program, int]) func(workflow.Context, program) (int, error) {
	return func(ctx workflow.Context, p program) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := mop.Run(ctx, program{App: p.App}); return err })
		v, err := p.run(ctx, p.Part)
		switch {
		case err != nil:
			return 0, err
		case p.Again > 0:
			p.Again, p.Sum = p.Again-1, p.Sum+v
			return 0, w.ContinueAsNew(p)
		}
		return p.Sum + v, nil
	}
}

// run executes a part.
func (p program) run(ctx workflow.Context, q part) (total int, err error) {
	with := program{App: p.App, Part: part{N: q.N}}
	switch q.Op {
	case "plus":
		return plus.Run(ctx, q.N)
	case "odd":
		return odd.Run(ctx, q.N)
	case "long":
		text, err := long.Run(ctx, q.N)
		return max(len(text)-bulky, 0), err
	case "never": // its failure is worth 7
		var failed *workflow.StepError
		if _, err := never.Run(ctx, q.N); !errors.As(err, &failed) {
			return 0, fmt.Errorf("never returned %w", err)
		}
		return 7, nil
	case "pay":
		return pay.Run(ctx, with)
	case "lucky":
		return lucky.Run(ctx, with)
	case "tell":
		return 0, lines.Append(ctx, fmt.Sprint(q.N))
	case "show":
		return 0, workflow.Progress[int]{Name: fmt.Sprint("p", q.N)}.Set(ctx, q.N)
	case "nap":
		return 0, workflow.Sleep(ctx, time.Duration(q.N)*time.Millisecond)
	case "coin":
		return coin.Receive(ctx, 0)
	case "late": // a wait that is given up when a nap is over
		short, cancel := ctx.WithTimeout(time.Duration(q.N) * time.Millisecond)
		defer cancel()
		if _, err := unsent.Receive(short, 0); !errors.Is(err, workflow.ErrTimeout) {
			return 0, fmt.Errorf("a coin that nobody sends: %w", err)
		}
		return 0, nil
	case "map":
		outs, err := workflow.Map(ctx, make([]int, q.N), plus, workflow.MapOptions{Limit: 3})
		return sum(outs), err
	case "each":
		outs, err := workflow.MapFunc(ctx, "each", q.Parts, p.run, workflow.MapOptions{Limit: 2})
		return sum(outs), err
	case "ready":
		var fs []*workflow.Future[int]
		for _, r := range q.Parts {
			fs = append(fs, workflow.Go(ctx, "branch", func(ctx workflow.Context) (int, error) { return p.run(ctx, r) }))
		}
		for _, f := range workflow.Ready(ctx, fs...) {
			v, err := f.Get(ctx)
			if err != nil {
				return 0, err
			}
			total += v
		}
		return total, nil
	case "child":
		return child.Run(ctx, program{App: p.App, Part: q.Parts[0], Again: q.N % 2})
	case "start": // a run that goes on by itself
		_, err := child.Start(ctx, program{App: p.App, Part: q.Parts[0], Again: q.N % 2})
		return 0, err
	}
	for _, r := range q.Parts { // seq
		v, err := p.run(ctx, r)
		if err != nil {
			return 0, err
		}
		total += v
	}
	return total, nil
}

// A result is what the model says of a part.
type result struct {
	value, coins int
	told         []string // appended by the run itself
	shown        map[string]json.RawMessage
	lucky        bool // it, or a child, needs luck
}

func (p program) model() (r result) {
	r = p.Part.model()
	one := r
	for range p.Again {
		r.value, r.coins, r.told = r.value+one.value, r.coins+one.coins, append(r.told, one.told...)
	}
	r.value += p.Sum
	return r
}

func (p part) model() (r result) {
	r.shown = make(map[string]json.RawMessage)
	for _, q := range p.Parts {
		if p.Op == "start" {
			break
		}
		x := q.model()
		r.lucky = r.lucky || x.lucky
		if p.Op == "child" {
			x = result{value: program{Part: q, Again: p.N % 2}.model().value}
		}
		r.value, r.coins, r.told = r.value+x.value, r.coins+x.coins, append(r.told, x.told...)
		for k, v := range x.shown {
			r.shown[k] = v
		}
	}
	switch p.Op {
	case "plus":
		r.value = p.N + 1
	case "odd", "long", "map", "pay":
		r.value = p.N
	case "lucky":
		r.value, r.lucky = p.N, true
	case "never":
		r.value = 7
	case "coin":
		r.value, r.coins = 1, 1
	case "tell":
		r.told = []string{fmt.Sprint(p.N)}
	case "show":
		r.shown[fmt.Sprint("p", p.N)] = json.RawMessage(fmt.Sprint(p.N))
	}
	return r
}

// parts generates random workflows.
func parts(depth int, inChild bool) *rapid.Generator[part] {
	return rapid.Custom(func(t *rapid.T) part {
		ops := []string{"plus", "odd", "never", "long", "pay", "lucky", "nap", "late", "map", "tell", "show"}
		if !inChild {
			ops = append(ops, "coin", "coin")
		}
		if depth > 0 {
			ops = append(ops, "seq", "seq", "each", "ready", "child", "start")
		}
		p := part{Op: rapid.SampledFrom(ops).Draw(t, "op"), N: rapid.IntRange(0, 9).Draw(t, "n")}
		switch p.Op {
		case "seq", "each", "ready":
			p.Parts = rapid.SliceOfN(parts(depth-1, inChild), 0, 4).Draw(t, "parts")
		case "child", "start":
			p.Parts = []part{parts(depth-1, true).Draw(t, "part")}
		}
		return p
	})
}
