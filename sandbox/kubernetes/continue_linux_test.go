package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

var (
	following = workflow.DurableWorkflow[int, string]{Name: "following"}
	halfway   = workflow.Stream[int]{Name: "halfway"}

	// followStep follows a command that prints n lines, waits for another command, and
	// prints as many again. The first call of the function does not get further than that.
	followStep = workflow.NewToolStep("follow", func(ctx context.Context, sb *sandbox.Sandbox, n int) (string, error) {
		calls, _ := sb.ReadFile(ctx, "calls") // not there at first
		calls = append(calls, 'x')
		if err := sb.WriteFile(ctx, "calls", calls, 0o600); err != nil {
			return "", err
		}
		half := &until{line: fmt.Sprintf("\n%d\n", n), seen: make(chan struct{})}
		c := sb.Command(ProgramPath, "probe:tally", fmt.Sprint(n), "gate", "begun")
		c.Stdout = half
		if err := c.Start(ctx); err != nil {
			return "", err
		}
		select {
		case <-half.seen:
		case <-ctx.Done():
			return "", errors.Join(context.Cause(ctx), c.Wait())
		}
		if err := halfway.AppendInStep(ctx, n); err != nil {
			return "", errors.Join(err, c.Wait())
		}
		if len(calls) > 1 {
			if err := sb.Command(ProgramPath, "probe:pass", "gate").Run(ctx); err != nil {
				return "", err
			}
		}
		if err := c.Wait(); err != nil {
			return "", err
		}
		begun, err := sb.ReadFile(ctx, "begun")
		return fmt.Sprintf("calls %d, begun %d\n%s", len(calls), bytes.Count(begun, []byte("begun\n")), half.all.Bytes()), err
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Continue: true, Retry: workflow.Retry{MaxAttempts: 1}})

	followV1 = workflow.Define(following, func(ctx workflow.Context, n int) (string, error) { return followStep.Run(ctx, n) },
		workflow.Options{Version: "1", Steps: []workflow.Declared{followStep}})
)

// until keeps what is written, and tells when a line was.
type until struct {
	all  bytes.Buffer
	line string // "" once it was
	seen chan struct{}
}

func (u *until) Write(p []byte) (int, error) {
	u.all.Write(p)
	if u.line != "" && bytes.Contains(u.all.Bytes(), []byte(u.line)) {
		close(u.seen)
		u.line = ""
	}
	return len(p), nil
}

// A tool step with Continue goes on in its pod when its worker is killed in the middle of a
// command, and when the next one is before its result is stored: the command runs once,
// and no byte of its output is missing or there twice.
func TestToolStepSurvivesWorker(t *testing.T) {
	t.Parallel()
	in := newPlace(t, "restricted").install(t)
	const n = 5000
	run, err := following.Enqueue(t.Context(), in.client, n, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range []victim{{After: 1}, {Before: 2}} {
		v.Name = fmt.Sprint("victim-", i)
		dead := in.startVictim(v)
		dead.dies()
		dead.believedDead()
	}
	pod := in.onlyPod()
	in.work(worker.Config{Workflows: []*workflow.Definition{followV1}})
	var want strings.Builder
	for i := range 2 * n {
		fmt.Fprintln(&want, i+1)
	}
	out, err := run.Result(bounded(t))
	head, printed, _ := strings.Cut(out, "\n")
	if err != nil || head != "calls 3, begun 1" || printed != want.String() {
		t.Fatalf("got %q and %d bytes of output, not %d, %v", head, len(printed), want.Len(), err)
	}
	steps, err := in.client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) != 1 || !steps[0].Recorded || steps[0].Attempt != 1 {
		t.Errorf("steps: %+v, %v", steps, err)
	}
	in.onRecordOnce(run.ID, pod)
}
