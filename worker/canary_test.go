package worker_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/sealed"
)

// canary is in every value of the runs of TestCodec.
const canary = "CanaryOfTheCoalMine"

var large = canary + strings.Repeat(".", 100<<10)

var (
	bird    = workflow.DurableWorkflow[string, string]{Name: "bird"}
	chick   = workflow.DurableWorkflow[string, string]{Name: "chick"}
	tweet   = workflow.NewSignal[string]("tweet")
	reached = workflow.Progress[string]{Name: "reached"}
	sings   = workflow.NewStep("sings", func(_ context.Context, s string) (string, error) { return s + s, nil }, workflow.StepOptions{})
	coughs  = workflow.NewStep("coughs", func(ctx context.Context, s string) (string, error) {
		if info, _ := workflow.StepInfoFrom(ctx); info.Attempt == 1 {
			return "", errors.New(s)
		}
		return s, nil
	}, workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Millisecond}})
	dies   = workflow.NewStep("dies", func(_ context.Context, s string) (string, error) { return "", workflow.Permanent(errors.New(s)) }, workflow.StepOptions{})
	panics = workflow.NewStep("panics", func(_ context.Context, s string) (string, error) { panic(s) }, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1}})
	pens   = workflow.NewTxStep("pens", func(_ context.Context, _ pgx.Tx, s string) (string, error) { return s, nil }, workflow.StepOptions{})

	song  = workflow.Progress[string]{Name: "song"}
	notes = workflow.Stream[string]{Name: "notes"}

	birdV1 = workflow.Define(bird, func(ctx workflow.Context, in string) (string, error) {
		if in != large {
			return "", bird.ContinueAsNew(large)
		}
		for _, s := range []*workflow.Step[string, string]{sings, coughs, pens} {
			if _, err := s.Run(ctx, in); err != nil {
				return "", err
			}
		}
		if err := errors.Join(song.Set(ctx, canary), notes.Append(ctx, canary)); err != nil {
			return "", err
		}
		for _, s := range []*workflow.Step[string, string]{dies, panics} {
			if _, err := s.Run(ctx, canary); err == nil || !strings.Contains(err.Error(), canary) {
				return "", fmt.Errorf("got %w", err)
			}
		}
		if err := errors.Join(lines.Append(ctx, canary), reached.Set(ctx, canary)); err != nil {
			return "", err
		}
		if out, err := chick.Run(ctx, in); err != nil || out != in {
			return "", fmt.Errorf("child: %w", err)
		}
		if _, err := chick.Run(ctx, canary); err == nil || !strings.Contains(err.Error(), canary) {
			return "", fmt.Errorf("child: %w", err)
		}
		for _, want := range []string{canary, large} {
			if s, err := tweet.Receive(ctx, 0); err != nil || s != want {
				return "", fmt.Errorf("signal: %w", err)
			}
		}
		return in, nil
	}, workflow.Options{Steps: []workflow.Declared{sings, coughs, dies, panics, pens}})

	chickV1 = workflow.Define(chick, func(_ workflow.Context, in string) (string, error) {
		switch in {
		case canary:
			return "", errors.New(in)
		case canary + "!":
			panic(in)
		}
		return in, nil
	}, workflow.Options{})
)

func newRing(t *testing.T, ids ...string) *sealed.Codec {
	t.Helper()
	var keys []sealed.Key
	for _, id := range ids {
		sum := sha256.Sum256([]byte(id))
		keys = append(keys, sealed.Key{ID: id, Secret: sum[:]})
	}
	c, err := sealed.New(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// encodes makes the fixture's client one that has a codec.
func (f *fixture) encodes(c workflow.Codec) {
	f.t.Helper()
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: f.pool, Schema: f.schema, Codec: c})
	if err != nil {
		f.t.Fatal(err)
	}
	f.client = client
}

// dump returns all rows of all tables, ours and River's, as text.
func (f *fixture) dump() string {
	f.t.Helper()
	rows, err := f.pool.Query(f.t.Context(), `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ($1, $2)`, f.schema, f.schema+"_river")
	if err != nil {
		f.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 20 {
		f.t.Fatalf("%d tables, %v", len(tables), err)
	}
	var out strings.Builder
	for _, table := range tables {
		var text *string
		if err := f.pool.QueryRow(f.t.Context(), "SELECT string_agg(t::text, E'\n') FROM "+table+" t").Scan(&text); err != nil {
			f.t.Fatal(err)
		}
		if text != nil {
			fmt.Fprintf(&out, "%s\n%s\n", table, *text)
		}
	}
	return out.String()
}

// tells returns in which forms a dump tells of the canary: itself, and hashes that
// confirm a guess.
func tells(dump string) (found []string) {
	input, _ := json.Marshal(canary)
	sum := sha256.Sum256(append([]byte("bird\x00"), input...))
	short := fnv.New64a()
	short.Write(input)
	for name, s := range map[string]string{
		"plain": canary, "hex": hex.EncodeToString([]byte(canary)), "base64": base64.StdEncoding.EncodeToString([]byte(canary[:18])),
		"SHA-256": hex.EncodeToString(sum[:]), "FNV": fmt.Sprint(int64(short.Sum64())),
	} {
		if strings.Contains(dump, s) {
			found = append(found, name)
		}
	}
	return found
}

// fly goes through all that stores a value.
func (f *fixture) fly(c workflow.Codec) {
	f.t.Helper()
	ctx := f.t.Context()
	if c != nil {
		f.encodes(c)
	}
	stop := f.start(worker.Config{Codec: c, Workflows: []*workflow.Definition{birdV1, chickV1}, Logger: slog.New(slog.DiscardHandler)})
	o := workflow.EnqueueOptions{Key: "once"}
	run, err := bird.Enqueue(ctx, f.client, canary, o)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, s := range []string{canary, large} {
		if err := tweet.Send(ctx, f.client, run.ID, s); err != nil {
			f.t.Fatal(err)
		}
	}
	ends(f.t, f.client, run, large)
	if v, _, err := reached.Get(ctx, f.client, run.ID); err != nil || v != canary || !slices.Equal(f.values(run.ID), []string{canary}) {
		f.t.Errorf("shown: %q, %v", v, err)
	}
	if again, err := bird.Enqueue(ctx, f.client, canary, o); err != nil || again.ID != run.ID {
		f.t.Errorf("with the same key: %v, %v", again.ID, err)
	}
	var conflict *workflow.KeyConflictError
	if _, err := bird.Enqueue(ctx, f.client, canary+"?", o); !errors.As(err, &conflict) {
		f.t.Errorf("with another input: %v", err)
	}
	failed, err := chick.Enqueue(ctx, f.client, canary, workflow.EnqueueOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := outcome(f.t, f.client, failed); err == nil || !strings.Contains(err.Error(), canary) {
		f.t.Errorf("got %v", err)
	}
	parked, err := chick.Enqueue(ctx, f.client, canary+"!", workflow.EnqueueOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	if s := f.parksAs(parked.ID, "panic"); !strings.Contains(s.Err.Message, canary) {
		f.t.Errorf("parked with %v", s.Err)
	}
	stop()
	if s, _, err := song.Get(ctx, f.client, run.ID); err != nil || s != canary {
		f.t.Errorf("progress: %q, %v", s, err)
	}
	if entries, end, err := notes.Read(ctx, f.client, run.ID, 0, 0); err != nil || len(entries) != 1 || !end || entries[0].Value != canary {
		f.t.Errorf("stream: %v, %v", entries, err)
	}
	steps, err := f.client.Steps(ctx, run.ID, 0)
	if err != nil || len(steps) != 10 || string(steps[0].Output) != `"`+large+large+`"` || !strings.Contains(steps[1].Err.Message, canary) {
		f.t.Errorf("%d steps, %v", len(steps), err)
	}
	if history, err := f.client.Export(ctx, run.ID); err != nil || !strings.Contains(string(history), canary) {
		f.t.Errorf("exported without the values: %v", err)
	}
	if err := f.client.Replay(ctx, run.ID, birdV1); err != nil {
		f.t.Errorf("replay: %v", err)
	}
	if why, err := f.client.Why(ctx, parked.ID); err != nil || !strings.Contains(fmt.Sprint(why), canary) {
		f.t.Errorf("why: %v, %v", why, err)
	}
	events, err := audit.Events(ctx, f.pool, audit.Filter{Schema: f.schema, Codec: c, Kinds: []string{audit.RunParked, audit.RunFailed, audit.AttemptFailed}})
	if err != nil || len(events) != 4 {
		f.t.Errorf("%d events, %v", len(events), err)
	}
	for _, e := range events {
		if !strings.Contains(string(e.Detail), canary) {
			f.t.Errorf("event %s is %s", e.Kind, e.Detail)
		}
	}
}

// TestCodec: with a codec no value is in Postgres, in no table and no form, and
// everything is as without.
func TestCodec(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.fly(newRing(t, "k1"))
	if found := tells(f.dump()); len(found) > 0 {
		t.Errorf("the database tells of the canary: %v", found)
	}
	events, err := audit.Events(t.Context(), f.pool, audit.Filter{Schema: f.schema, Kinds: []string{audit.RunParked}})
	if err != nil || len(events) != 1 || string(events[0].Detail) != `{"sealed":"k1"}` {
		t.Errorf("without the codec: %+v, %v", events, err)
	}
}

// TestCodecControl: without a codec the same search finds it.
func TestCodecControl(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.fly(nil)
	found := tells(f.dump())
	slices.Sort(found)
	if !slices.Equal(found, []string{"FNV", "SHA-256", "hex"}) {
		t.Errorf("found only %v", found)
	}
}
