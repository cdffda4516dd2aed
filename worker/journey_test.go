//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A trip is the input of workflow journey: the steps to go through, and the file
// in which each execution of a step leaves a line.
type trip struct {
	Path  []string
	Log   string
	Again bool // the run has continued as new
}

var journey = workflow.DurableWorkflow[trip, string]{Name: "journey"}

// visit leaves a line behind. Appends of this size are atomic, whoever writes.
func visit(ctx context.Context, log string) (workflow.StepInfo, error) {
	info, _ := workflow.StepInfoFrom(ctx)
	f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return info, err
	}
	_, err = fmt.Fprintf(f, "%v %s %d\n", info.Run, info.Step, info.Attempt)
	return info, errors.Join(err, f.Close())
}

func place(name string, o workflow.StepOptions, more func(context.Context, string, workflow.StepInfo) error) *workflow.Step[string, string] {
	return workflow.NewStep(name, func(ctx context.Context, log string) (string, error) {
		info, err := visit(ctx, log)
		if err == nil && more != nil {
			err = more(ctx, log, info)
		}
		return name, err
	}, o)
}

var (
	placeA     = place("a", workflow.StepOptions{}, nil)
	placeB     = place("b", workflow.StepOptions{}, nil)
	placeC     = place("c", workflow.StepOptions{}, nil)
	placeGate  = place("gate", workflow.StepOptions{}, nil) // the old definition does not declare it
	placeFlaky = place("flaky", workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Millisecond}}, failOnce)
	placeSlow  = place("slow", workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Hour, MaxBackoff: time.Hour}}, failOnce)
	placeBeat  = place("beat", workflow.StepOptions{}, halfway)
	placeLate  = place("late", workflow.StepOptions{}, nil)
	placeHold  = place("hold", workflow.StepOptions{Timeout: -1}, hold)
	placeBig   = workflow.NewStep("big", func(ctx context.Context, log string) (string, error) {
		_, err := visit(ctx, log)
		return bulk, err
	}, workflow.StepOptions{})
	placeBox = workflow.NewToolStep("box", func(ctx context.Context, sb *sandbox.Sandbox, log string) (string, error) {
		if _, err := visit(ctx, log); err != nil {
			return "", err
		}
		return "box", sb.Command("/bin/bash", "-c", askProxy).Run(ctx)
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Network: sandbox.NetworkPolicy{Allow: []string{"allowed.invalid:443"}}}})

	// They share a sandbox.
	placeDen  = shares("den")
	placeLair = shares("lair")

	// Asks for a host that is not allowed, and ends well if that is refused.
	askProxy = `p=${https_proxy#http://}; exec 3<>/dev/tcp/${p%:*}/${p#*:}
		printf 'CONNECT denied.invalid:443 HTTP/1.1\r\nHost: denied.invalid\r\n\r\n' >&3; read -r _ code _ <&3; test "$code" = 403`

	places = map[string]*workflow.Step[string, string]{"a": placeA, "b": placeB, "c": placeC, "gate": placeGate,
		"flaky": placeFlaky, "slow": placeSlow, "hold": placeHold, "beat": placeBeat, "box": placeBox, "big": placeBig, "den": placeDen, "lair": placeLair}

	journeyOld = workflow.Define(journey, travel, workflow.Options{Version: "1",
		Steps: []workflow.Declared{placeA, placeB, placeC, placeFlaky, placeSlow, placeHold, placeBeat, placeLate, placeBox, placeBig}})
	journeyNew = workflow.Define(journey, travel, workflow.Options{Version: "1",
		Steps: []workflow.Declared{placeA, placeB, placeC, placeFlaky, placeSlow, placeHold, placeBeat, placeLate, placeBox, placeBig, placeGate, placeDen, placeLair}})
)

// What a path holds beside steps, and the key that it is on record with.
var waits = map[string]string{"nap": "sleep:", "mail": "signal:letter", "kin": "child:kin", "bigkin": "child:kin", "start": "child:kin"}

// bulk is too large to be stored in line.
var bulk = strings.Repeat("bulk", 20<<10)

var (
	letter = workflow.NewSignal[string]("letter")
	diary  = workflow.Stream[string]{Name: "diary"}
	stage  = workflow.Progress[int]{Name: "stage"}
	kin    = workflow.DurableWorkflow[string, string]{Name: "kin"}
	kinV1  = workflow.Define(kin, func(ctx workflow.Context, log string) (string, error) {
		_, err := double.Run(ctx, 1)
		return "kin", err
	}, workflow.Options{Steps: []workflow.Declared{double}})
)

func shares(name string) *workflow.Step[string, string] {
	return workflow.NewToolStep(name, func(ctx context.Context, sb *sandbox.Sandbox, log string) (string, error) {
		if _, err := visit(ctx, log); err != nil {
			return "", err
		}
		return name, sb.Command("/bin/true").Run(ctx)
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Share: true}})
}

func failOnce(_ context.Context, _ string, info workflow.StepInfo) error {
	if info.Attempt == 1 {
		return errors.New("the first attempt fails")
	}
	return nil
}

// halfway keeps a victim after its heartbeat. Who comes after one that was
// written knows of it.
func halfway(ctx context.Context, _ string, info workflow.StepInfo) error {
	var at string
	ok, err := info.Details(&at)
	if err != nil || ok != (info.Attempt > 1) || ok && at != "half" {
		return workflow.Permanent(fmt.Errorf("attempt %d is told %q: %w", info.Attempt, at, err))
	}
	if victim == nil {
		return nil
	}
	if err := workflow.Heartbeat(ctx, "half"); err != nil || victim.CutMark != "" { // who only loses an answer goes on
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// hold keeps a victim in the middle of a step. Elsewhere it goes on at once.
func hold(ctx context.Context, log string, _ workflow.StepInfo) error {
	switch {
	case victim == nil || victim.Hold == "":
		return nil
	case victim.Hold == "context":
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for { // deaf to its context
		if _, err := os.Stat(log + ".go"); err == nil {
			return nil
		}
		<-time.After(5 * time.Millisecond)
	}
}

func travel(ctx workflow.Context, in trip) (string, error) {
	var been []string
	for i, name := range in.Path {
		at, err := name, error(nil)
		switch name {
		case "tell":
			page := fmt.Sprint(i, in.Again)
			err = errors.Join(diary.Append(ctx, page), stage.Set(ctx, i), ctx.SetAttribute("page", page))
		case "nap":
			err = workflow.Sleep(ctx, time.Hour)
		case "mail":
			at, err = letter.Receive(ctx, 0)
		case "kin":
			at, err = kin.Run(ctx, in.Log)
		case "start":
			_, err = kin.With(workflow.EnqueueOptions{Key: "kin", Limit: workflow.Limit{Key: "kin", Concurrency: 1}}).Start(ctx, in.Log)
		case "bigkin":
			_, err = kin.Run(ctx, bulk)
		case "big":
			var out string
			if out, err = placeBig.Run(ctx, in.Log); err == nil && out != bulk {
				err = errors.New("a large value is not what it was")
			}
		case "late": // the last, for what is to be done when the run's time is over
			ctx.Finally(func(ctx workflow.Context) error {
				_, err := placeLate.Run(ctx, in.Log)
				return err
			})
			if err = workflow.Sleep(ctx, time.Hour); errors.Is(err, workflow.ErrCanceled) {
				err = nil
			}
		case "renew":
			if !in.Again {
				return "", journey.ContinueAsNew(trip{in.Path, in.Log, true})
			}
		default:
			at, err = places[name].Run(ctx, in.Log)
		}
		if err != nil {
			return "", err
		}
		been = append(been, at)
	}
	return strings.Join(been, " "), nil
}

// traveller is a run of journey with what a test checks of it.
type traveller struct {
	*fixture
	in  trip
	run workflow.Run[string]
}

func (f *fixture) travel(path ...string) *traveller {
	f.t.Helper()
	return f.travelWith(workflow.EnqueueOptions{Tenant: "acme"}, path...)
}

func (f *fixture) travelWith(o workflow.EnqueueOptions, path ...string) *traveller {
	f.t.Helper()
	in := trip{Path: path, Log: f.t.TempDir() + "/log"}
	if slices.Contains(path, "late") {
		o.Timeout = time.Hour
	}
	run, err := journey.Enqueue(f.t.Context(), f.client, in, o)
	if err != nil {
		f.t.Fatal(err)
	}
	if slices.Contains(path, "mail") {
		if err := letter.Send(f.t.Context(), f.client, run.ID, "mail"); err != nil {
			f.t.Fatal(err)
		}
	}
	return &traveller{fixture: f, in: in, run: run}
}

// visits returns the keys of the steps in the order in which they were executed.
func (r *traveller) visits() []string {
	r.t.Helper()
	data, err := os.ReadFile(r.in.Log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	var keys []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != r.run.ID.String() {
			r.t.Fatalf("log line %q", line)
		}
		keys = append(keys, f[1])
	}
	return keys
}

// checkpoints returns the recorded steps, each as one line.
func (r *traveller) checkpoints() map[string]string {
	r.t.Helper()
	steps, err := r.client.Steps(r.t.Context(), r.run.ID, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	m := make(map[string]string)
	for _, s := range steps {
		if !s.Recorded {
			continue
		}
		if m[s.Step] != "" {
			r.t.Errorf("step %s has two checkpoints", s.Step)
		}
		m[s.Step] = fmt.Sprintf("%d %d %s %s %v", s.Seq, s.Attempt, strings.Replace(string(s.Output), bulk, "bulk", 1), s.Started, s.Err)
	}
	return m
}

// arrives waits for the end of the run and checks what must hold however its
// workers died: the steps that were on record before are as they were and were
// not executed again, every step is on record once, and nothing is left over.
func (r *traveller) arrives(ctx context.Context, before map[string]string, visited int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := r.run.Result(ctx)
	if err != nil || out != strings.Join(r.in.Path, " ") {
		status, serr := r.client.Get(r.t.Context(), r.run.ID)
		r.t.Fatalf("result %q, %v; status %+v, %v", out, err, status, serr)
	}
	after := r.checkpoints()
	for key, c := range before {
		if after[key] != c {
			r.t.Errorf("checkpoint of %s was %s, is %s", key, c, after[key])
		}
	}
	for _, key := range r.visits()[visited:] {
		if before[key] != "" {
			r.t.Errorf("step %s was on record, and was executed again", key)
		}
	}
	path := slices.DeleteFunc(slices.Clone(r.in.Path), func(s string) bool { return s == "renew" || s == "tell" })
	for _, key := range path {
		if wait := waits[key]; wait != "" && after[wait] != "" {
			continue
		}
		if after[key] == "" || !slices.Contains(r.visits(), key) {
			r.t.Errorf("step %s is not on record, or was never executed", key)
		}
	}
	r.told()
	if slices.Contains(path, "start") {
		eventually(r.t, "what was started is over", func() bool {
			return r.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kin' AND state = 'completed' AND parent_id IS NULL") == 1
		})
		if n := r.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kin'"); n != 1 {
			r.t.Errorf("%d runs were started", n)
		}
	}
	if len(after) != len(path) {
		r.t.Errorf("checkpoints: %v", after)
	}
	for _, table := range []string{"ready", "turn", "timer", "parked", "wait"} {
		if n := r.count("SELECT count(*) FROM stepward."+table+" WHERE run_id = $1", r.run.ID); n != 0 {
			r.t.Errorf("%d rows are left in %s", n, table)
		}
	}
}

// told checks what the body has shown outward: each once, in order.
func (r *traveller) told() {
	r.t.Helper()
	var want, got []string
	last := 0
	for _, again := range []bool{false, true} {
		if again && !slices.Contains(r.in.Path, "renew") {
			break
		}
		for i, name := range r.in.Path {
			if name == "renew" && !again {
				break
			}
			if name == "tell" {
				want, last = append(want, fmt.Sprint(i, again)), i
			}
		}
	}
	for e, err := range diary.Tail(r.t.Context(), r.client, r.run.ID, 0) {
		if err != nil {
			r.t.Fatal(err)
		}
		got = append(got, e.Value)
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("the stream has %q, want %q", got, want)
	}
	if len(want) == 0 {
		return
	}
	if v, when, err := stage.Get(r.t.Context(), r.client, r.run.ID); err != nil || v != last || when.IsZero() {
		r.t.Errorf("progress is %v, %v, %v", v, when, err)
	}
	if s := r.state(r.run.ID); s.Attributes["page"] != want[len(want)-1] {
		r.t.Errorf("attributes are %v", s.Attributes)
	}
}

// backends are the sandboxes of tests: local ones, with a static runner.
func backends(t *testing.T) []sandbox.Backend {
	return []sandbox.Backend{local.New(local.Config{Program: sandboxtest.BuildProbe(t)})}
}

// takeOver starts a healthy worker of the new definition.
func (f *fixture) takeOver() (stop func()) {
	return f.start(worker.Config{Name: "healthy", Workflows: []*workflow.Definition{journeyNew, kinV1}, Backends: backends(f.t)})
}
