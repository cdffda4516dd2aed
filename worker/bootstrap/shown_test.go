package bootstrap_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/sealed"
)

var (
	shows = workflow.DurableWorkflow[string, string]{Name: "shows"}
	lines = workflow.Stream[string]{Name: "lines"}
	share = workflow.Progress[int]{Name: "share"}

	show = workflow.NewStep("show", func(ctx context.Context, how string) (string, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		switch how {
		case "forever":
			for {
				if err := lines.AppendInStep(ctx, "more"); err != nil {
					return "", err
				}
			}
		case "hostile":
			return how, hostile(200)
		case "deaf":
			return how, hostile(1 << 20)
		}
		a, _ := engine.AttemptFrom(ctx)
		if err := a.Outlet.Append(ctx, "bad name", []byte(`"x"`)); err == nil || !strings.Contains(err.Error(), `stream "bad name"`) {
			return "", workflow.Permanent(fmt.Errorf("what the worker refuses: %w", err))
		}
		var bad *workflow.ValueError
		if err := lines.AppendInStep(ctx, strings.Repeat("x", 64<<10)); !errors.As(err, &bad) || bad.Kind != "size" {
			return "", workflow.Permanent(fmt.Errorf("a large entry: %w", err))
		}
		for i := range 100 * info.Attempt {
			if err := share.SetInStep(ctx, i+1); err != nil {
				return "", err
			}
		}
		if err := lines.AppendInStep(ctx, fmt.Sprint("try ", info.Attempt)); err != nil {
			return "", err
		}
		if info.Attempt == 1 {
			os.Exit(3)
		}
		return how, lines.AppendInStep(ctx, "done")
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Retry: workflow.Retry{MaxAttempts: 2, Backoff: time.Millisecond}})

	showBriefly = workflow.NewStep("show-briefly", func(context.Context, string) (string, error) {
		return "", hostile(1 << 20)
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Timeout: 4 * time.Second, Retry: workflow.Retry{MaxAttempts: 1}})

	showsV1 = workflow.Define(shows, func(ctx workflow.Context, how string) (string, error) {
		if how == "deaf" {
			return showBriefly.Run(ctx, how)
		}
		return show.Run(ctx, how)
	}, workflow.Options{Steps: []workflow.Declared{show, showBriefly}})
)

// hostile writes to the pipe of the answer itself, as a guest that was taken over
// could, and reads no receipts.
func hostile(n int) error {
	pipe := os.NewFile(4, "answer")
	write := func(s *rpc.GuestShown) error {
		raw, err := proto.Marshal(s)
		if err != nil {
			return err
		}
		_, err = pipe.Write(protowire.AppendBytes(protowire.AppendTag(nil, rpc.ShownField, protowire.BytesType), raw))
		return err
	}
	for i := range n {
		err := errors.Join(
			write(&rpc.GuestShown{Name: fmt.Sprint("name-", i), Value: []byte("1")}),
			write(&rpc.GuestShown{Name: "lines", Value: []byte("\x03blob"), Entry: 1}),
			write(&rpc.GuestShown{Name: "\x00", Value: []byte("1"), Entry: 1}),
			write(&rpc.GuestShown{Name: "lines", Value: fmt.Appendf(nil, "%q", make([]byte, 20<<10)), Entry: -1}),
		)
		if err != nil {
			return err
		}
	}
	return write(&rpc.GuestShown{Name: "lines", Value: []byte(`"the end"`), Entry: 1})
}

// What a guest shows is shown as by a step on the worker, behind a codec too: an
// entry that was appended stays, whatever becomes of the process, and progress is
// there at last when the attempt ends.
func TestGuestShows(t *testing.T) {
	ring, err := sealed.New(sealed.Key{ID: "k", Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	client, _ := start(t, worker.Config{Codec: ring})
	run, err := shows.Enqueue(t.Context(), client, "well", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := outcome(t, client, run); err != nil || out != "well" {
		t.Fatalf("got %q, %v", out, err)
	}
	if v, _, err := share.Get(t.Context(), client, run.ID); v != 200 || err != nil {
		t.Errorf("progress is %d, %v", v, err)
	}
	entries, end, err := lines.Read(t.Context(), client, run.ID, 0, 0)
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprint(e.Step, " ", e.Attempt, " ", e.Value))
	}
	if want := "show 1 try 1, show 2 try 2, show 2 done"; err != nil || !end || strings.Join(got, ", ") != want {
		t.Errorf("got %q, %v, %v", got, end, err)
	}
}

// A guest shows nothing more when its worker has lost the run, and ends.
func TestGuestShowsFenced(t *testing.T) {
	client, cfg := start(t, worker.Config{})
	run, err := shows.Enqueue(t.Context(), client, "forever", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range lines.Tail(t.Context(), client, run.ID, 0) {
		if err != nil || e.Value != "more" {
			t.Fatalf("got %+v, %v", e, err)
		}
		break
	}
	count := func(what string) (n int) {
		t.Helper()
		if err := cfg.Pool.QueryRow(t.Context(), fmt.Sprintf("SELECT count(*) FROM %q.%s", cfg.Schema, what)).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if _, err := cfg.Pool.Exec(t.Context(), fmt.Sprintf("UPDATE %q.run SET epoch = epoch + 1", cfg.Schema)); err != nil { // as a reaper does
		t.Fatal(err)
	}
	before := count("entry")
	testenv.Eventually(t, "the sandbox is gone", func() bool { return count("sandbox WHERE destroyed_at IS NULL") == 0 })
	if n := count("entry"); n != before {
		t.Errorf("%d entries were appended after the lease was lost", n-before)
	}
}

// What a guest floods its worker with is dropped, refused, or held up, and does
// not become more than one attempt may show.
func TestGuestFloods(t *testing.T) {
	client, _ := start(t, worker.Config{})
	run, err := shows.Enqueue(t.Context(), client, "hostile", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := outcome(t, client, run); err != nil || out != "hostile" {
		t.Fatalf("got %q, %v", out, err)
	}
	all, err := client.Progress(t.Context(), run.ID)
	if len(all) != 100 || err != nil {
		t.Errorf("%d names of progress, %v", len(all), err)
	}
	for name, v := range all {
		if !json.Valid(v) {
			t.Errorf("progress %s is %q", name, v)
		}
	}
	if entries, _, err := lines.Read(t.Context(), client, run.ID, 0, 0); err != nil || len(entries) != 1 || entries[0].Value != "the end" {
		t.Errorf("got %+v, %v", entries, err)
	}

	deaf, err := shows.Enqueue(t.Context(), client, "deaf", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, client, deaf); !errors.Is(err, workflow.ErrTimeout) {
		t.Errorf("one that reads no receipts: %v", err)
	}
}
