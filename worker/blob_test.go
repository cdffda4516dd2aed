//go:build unix

package worker_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// folder is a store of files.
type folder string

func (f folder) path(key string) string {
	return filepath.Join(string(f), strings.ReplaceAll(key, "/", "+"))
}

func (f folder) Put(_ context.Context, key string, data []byte) error {
	return os.WriteFile(f.path(key), data, 0o600)
}

func (f folder) Get(_ context.Context, key string) ([]byte, error) { return os.ReadFile(f.path(key)) }

func (f folder) Delete(_ context.Context, key string) error {
	if err := os.Remove(f.path(key)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (f folder) files(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir(string(f))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestFolder(t *testing.T) { workflowtest.TestBlobStore(t, folder(t.TempDir())) }

// stores makes the fixture's client one with a store and a higher limit.
func (f *fixture) stores(s workflow.BlobStore) {
	f.t.Helper()
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: f.pool, Schema: f.schema, Blobs: s, MaxBytes: 16 << 20})
	if err != nil {
		f.t.Fatal(err)
	}
	f.client = client
}

// Large values are in the application's store, and Postgres has references: until
// the run is deleted, and then they are gone, too.
func TestBlobStore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	store := folder(t.TempDir())
	f.stores(store)
	cfg := worker.Config{Blobs: store, MaxBytes: 16 << 20, Workflows: []*workflow.Definition{relayV1}}
	stop := f.start(cfg)
	in := strings.Repeat("x", 2<<20)
	run, err := relay.Enqueue(t.Context(), f.client, in, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.waits(run.ID)
	if err := tweet.Send(t.Context(), f.client, run.ID, in); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, strings.Repeat(in, 6))
	stop()
	// Input, output and signal; two steps and the receipt.
	if n := f.count("SELECT count(*) FROM stepward.blob WHERE data IS NULL AND NOT loose"); n != 6 || store.files(t) != 6 {
		t.Errorf("%d blobs, %d files", n, store.files(t))
	}
	if dump := f.dump(); len(dump) > 1<<20 {
		t.Errorf("Postgres has %d bytes", len(dump))
	}

	f.stores(nil)
	var undecodable *workflow.ValueError
	if _, err := outcome(t, f.client, f.as(run)); !errors.As(err, &undecodable) || !strings.Contains(err.Error(), "no blob store") {
		t.Errorf("without the store: %v", err)
	}

	cfg.Retention.Completed = time.Millisecond
	stop = f.start(cfg)
	eventually(t, "the run is deleted", func() bool { return f.count("SELECT count(*) FROM stepward.run") == 0 })
	stop()
	f.ageBlobs()
	f.start(worker.Config{Name: "without the store", Workflows: []*workflow.Definition{relayV1}})
	f.start(cfg)
	eventually(t, "its blobs are gone", func() bool {
		return f.count("SELECT count(*) FROM stepward.blob") == 0 && store.files(t) == 0
	})
}

// flaky is a store that fails to write each blob once.
type flaky struct {
	folder
	puts atomic.Int64
}

func (s *flaky) Put(ctx context.Context, key string, data []byte) error {
	if s.puts.Add(1)%2 == 1 {
		return errors.New("slow down")
	}
	return s.folder.Put(ctx, key, data)
}

// What could not be written at once is written as it was: outputs of steps, inputs
// of children, and the run's own.
func TestBlobWrittenAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	store := folder(t.TempDir())
	f.stores(store)
	grow := workflow.NewStep("grow", func(_ context.Context, s string) (string, error) { return s + s, nil }, workflow.StepOptions{})
	leaf := workflow.DurableWorkflow[string, string]{Name: "leaf"}
	tree := workflow.DurableWorkflow[string, string]{Name: "tree"}
	f.start(worker.Config{Blobs: &flaky{folder: store}, MaxBytes: 16 << 20, Workflows: []*workflow.Definition{
		workflow.Define(leaf, func(_ workflow.Context, s string) (string, error) { return s, nil }, workflow.Options{}),
		workflow.Define(tree, func(ctx workflow.Context, s string) (string, error) {
			s, err := grow.Run(ctx, s)
			if err != nil {
				return "", err
			}
			return leaf.Run(ctx, s)
		}, workflow.Options{Steps: []workflow.Declared{grow}}),
	}})
	in := strings.Repeat("x", 100<<10)
	run, err := tree.Enqueue(t.Context(), f.client, in, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, in+in)
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) != 2 || len(steps[0].Output) != len(in+in)+2 || len(steps[1].Output) != len(in+in)+2 {
		t.Errorf("%d steps, %v", len(steps), err)
	}
}

// sweepsEarly has the first two blobs of more than 150,000 bytes swept before they
// are used, as when the clock of Postgres leaps.
func (f *fixture) sweepsEarly() {
	f.t.Helper()
	f.exec(`CREATE FUNCTION stepward.sweep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF length(NEW.data) > 150000 AND (SELECT count(*) FROM stepward.swept) < 2 THEN
			INSERT INTO stepward.swept VALUES (NEW.key);
			DELETE FROM stepward.blob WHERE key = NEW.key;
		END IF;
		RETURN NULL;
	END $$`)
	f.exec("CREATE TABLE stepward.swept (key text)")
	f.exec("CREATE TRIGGER sweep AFTER INSERT ON stepward.blob FOR EACH ROW EXECUTE FUNCTION stepward.sweep()")
}

// A blob that was swept before it was used is never referred to: what it would have
// been the result of is executed again.
func TestBlobSweptEarly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.sweepsEarly()
	var executed atomic.Int64
	grow := workflow.NewStep("grow", func(_ context.Context, s string) (string, error) {
		executed.Add(1)
		return s + s, nil
	}, workflow.StepOptions{})
	tree := workflow.DurableWorkflow[string, int]{Name: "tree"}
	f.start(worker.Config{Workflows: []*workflow.Definition{
		workflow.Define(tree, func(ctx workflow.Context, s string) (int, error) {
			s, err := grow.Run(ctx, s)
			return len(s), err
		}, workflow.Options{Steps: []workflow.Declared{grow}}),
	}})
	in := strings.Repeat("x", 100<<10)
	run, err := tree.Enqueue(t.Context(), f.client, in, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 2*len(in))
	if n := executed.Load(); n != 3 {
		t.Errorf("executed %d times, of which two results were swept", n)
	}
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) != 1 || len(steps[0].Output) != 2*len(in)+2 {
		t.Errorf("%d steps, %v", len(steps), err)
	}
}

// The same of what a run begins anew with: the turn is given up, and its body executes again.
func TestRenewalSweptEarly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.sweepsEarly()
	grows := workflow.DurableWorkflow[string, int]{Name: "grows"}
	f.start(worker.Config{Workflows: []*workflow.Definition{
		workflow.Define(grows, func(_ workflow.Context, s string) (int, error) {
			if len(s) < 150_000 {
				return 0, grows.ContinueAsNew(s + s)
			}
			return len(s), nil
		}, workflow.Options{}),
	}})
	in := strings.Repeat("x", 100<<10)
	run, err := grows.Enqueue(t.Context(), f.client, in, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 2*len(in))
	if n := f.count("SELECT count(*) FROM stepward.swept"); n != 2 {
		t.Errorf("%d blobs were swept", n)
	}
}

// A blob that is damaged parks the run, which goes on when it is mended.
func TestBlobDamaged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	store := folder(t.TempDir())
	f.stores(store)
	run, err := relay.Enqueue(t.Context(), f.client, bulk, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(string(store))
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	path := filepath.Join(string(store), entries[0].Name())
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.ToUpper(string(good))), 0o600); err != nil {
		t.Fatal(err)
	}
	f.start(worker.Config{Blobs: store, Workflows: []*workflow.Definition{relayV1}})
	if s := f.parksAs(run.ID, "undecodable"); !strings.Contains(s.Err.Message, "SHA-256") {
		t.Errorf("parked with %v", s.Err)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.client.Resume(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	f.waits(run.ID)
}

// A transaction of the application may be open for longer than a blob of a store is
// kept that nothing refers to. One that was rolled back leaves nothing.
func TestBlobOfOpenTx(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	store := folder(t.TempDir())
	f.stores(store)
	stop := f.start(worker.Config{Blobs: store, Workflows: []*workflow.Definition{relayV1}}) // or the transactions would hold up its definition
	first, err := relay.Enqueue(t.Context(), f.client, "a", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.waits(first.ID)
	stop()
	enqueue := func(tx pgx.Tx) workflow.Run[string] {
		run, err := relay.EnqueueTx(t.Context(), f.client, tx, bulk, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	back := f.begin()
	enqueue(back)
	if err := back.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.ageBlobs()
	tx := f.begin()
	run := enqueue(tx)
	if n := f.count("SELECT count(*) FROM stepward.blob WHERE loose"); n != 2 {
		t.Fatalf("%d blobs are loose", n)
	}
	// The row is locked: to be old enough it must have been so from the start.
	if _, err := tx.Exec(t.Context(), f.sql("UPDATE stepward.blob SET at = at - interval '1 day' WHERE at > clock_timestamp() - interval '1 hour'")); err != nil {
		t.Fatal(err)
	}
	f.start(worker.Config{Blobs: store, Workflows: []*workflow.Definition{relayV1}})
	eventually(t, "the blob of the other transaction is swept", func() bool { return f.count("SELECT count(*) FROM stepward.blob") == 1 })
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.waits(run.ID)
}

// A run that begins anew lets go of what it had, but for signals that are still to
// be received.
func TestBlobsOfContinueAsNew(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	endless := workflow.DurableWorkflow[string, string]{Name: "endless"}
	def := workflow.Define(endless, func(ctx workflow.Context, in string) (string, error) {
		if _, err := sings.Run(ctx, in); err != nil {
			return "", err
		}
		if len(in) < len(bulk)+3 {
			return "", endless.ContinueAsNew(in + ".")
		}
		return tweet.Receive(ctx, 0)
	}, workflow.Options{Steps: []workflow.Declared{sings}})
	run, err := endless.Enqueue(t.Context(), f.client, bulk, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tweet.Send(t.Context(), f.client, run.ID, large); err != nil {
		t.Fatal(err)
	}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	ends(t, f.client, run, large)
	stop()
	f.noBlobLeft()
	if n := f.count("SELECT count(*) FROM stepward.blob"); n != 5 { // input, step, signal, receipt, output
		t.Errorf("%d blobs are left", n)
	}
}
