//go:build unix

package worker_test

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// line is the way from a pool to Postgres. It can be taken down.
type line struct {
	mu     sync.Mutex
	down   bool
	silent bool // down means: no answers, instead of refused and reset connections
	deaf   bool // what asks Postgres to cancel a statement gets lost
	up     chan struct{}
	conns  map[*lineConn]bool
}

type lineConn struct {
	net.Conn
	l *line
}

var errDown = errors.New("the line is down")

// newLine returns a line and a pool that uses it.
func newLine(t *testing.T, silent bool) (*line, *pgxpool.Pool) {
	t.Helper()
	l := &line{silent: silent, up: make(chan struct{}), conns: make(map[*lineConn]bool)}
	cfg, err := pgxpool.ParseConfig(databases.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.DialFunc = l.dial
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return l, pool
}

func (l *line) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	down, up := l.down, l.up
	l.mu.Unlock()
	if down && l.silent {
		select {
		case <-up:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	} else if down {
		return nil, errDown
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &lineConn{conn, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = true
	return c, nil
}

// Write loses what is sent while a silent line is down, as a broken network does.
func (c *lineConn) Write(b []byte) (int, error) {
	c.l.mu.Lock()
	lost := c.l.down
	c.l.mu.Unlock()
	if c.l.deaf && len(b) == 16 && binary.BigEndian.Uint32(b[4:]) == 80877102 { // a CancelRequest
		return 0, errDown
	}
	if lost {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *lineConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// cut takes the line down.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.down {
		l.down, l.up = true, make(chan struct{})
	}
	if l.silent {
		return
	}
	for c := range l.conns {
		_ = c.Conn.Close() // its user sees a reset
	}
}

// mend brings it up again. Connections that were silent are dead.
func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.down {
		return
	}
	l.down = false
	close(l.up)
	for c := range l.conns {
		_ = c.Conn.Close()
	}
}

// An outage of Postgres that is shorter than the lease costs nothing: the step
// goes on meanwhile, its result waits, and the turn writes it. One that is longer
// costs the turn, and no more: the worker goes on with a new session.
func TestOutage(t *testing.T) {
	for _, test := range []struct {
		name           string
		silent, longer bool
	}{{"reset/short", false, false}, {"reset/long", false, true}, {"silent/short", true, false}, {"silent/long", true, true}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			l, pool := newLine(t, test.silent)
			began, release := make(chan int, 4), make(chan struct{})
			step := workflow.NewStep("hold", func(ctx context.Context, n int) (int, error) {
				info, _ := workflow.StepInfoFrom(ctx)
				began <- info.Attempt
				select {
				case <-release:
					return n, nil
				case <-ctx.Done():
					return 0, context.Cause(ctx)
				}
			}, workflow.StepOptions{})
			w := workflow.DurableWorkflow[int, int]{Name: "holds"}
			def := workflow.Define(w, func(ctx workflow.Context, n int) (int, error) {
				n, err := double.Run(ctx, n)
				if err != nil {
					return 0, err
				}
				return step.Run(ctx, n)
			}, workflow.Options{Steps: []workflow.Declared{double, step}})
			var health worker.Health
			cfg := worker.Config{Pool: pool, Health: &health, LeaseTTL: 30 * time.Second, Workflows: []*workflow.Definition{def}}
			if test.longer {
				cfg.LeaseTTL = time.Second
			}
			f.start(cfg)
			run, err := w.Enqueue(t.Context(), f.client, 21, workflow.EnqueueOptions{})
			if err != nil {
				t.Fatal(err)
			}
			arrives(t, began)
			l.cut()
			if test.longer {
				eventually(t, "the worker gives its runs up", func() bool {
					r, ok := health.Report()
					return ok && r.Runs == 0 && r.LeaseSlack < 0
				})
				if err := health.Check(t.Context()); err == nil {
					t.Error("the worker says that it is well")
				}
				l.mend()
				arrives(t, began) // again, after a claim
			}
			close(release)
			if !test.longer {
				l.mend()
			}
			if out, err := outcome(t, f.client, run); err != nil || out != 42 {
				t.Fatalf("got %d, %v", out, err)
			}
			steps, err := f.client.Steps(t.Context(), run.ID, 0)
			if err != nil || len(steps) != 2 || !steps[0].Recorded || !steps[1].Recorded {
				t.Fatalf("steps: %+v, %v", steps, err)
			}
			status := f.state(run.ID)
			if !test.longer && status.Turns != 1 {
				t.Errorf("the run took %d turns", status.Turns)
			}
			if steps[0].Attempt != 1 || len(began) != 0 {
				t.Errorf("a step was executed too often: %+v", steps)
			}
			eventually(t, "the worker is well", func() bool { return health.Check(t.Context()) == nil })
		})
	}
}

// A worker that has lost its lease does not keep the connection of that session, for the
// garbage collector to find.
func TestLeaseLostFreesConnection(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	f := newFixture(t)
	f.start(worker.Config{LeaseTTL: 3 * time.Second, Workflows: []*workflow.Definition{randomV1}})
	for range 3 {
		eventually(t, "there is a session", func() bool { return f.count("SELECT count(*) FROM stepward.worker") == 1 })
		eventually(t, "the worker has one connection for its heartbeat", func() bool {
			return f.count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^/. stepward Worker(Insert|Heartbeat) '") == 1
		})
		f.exec("DELETE FROM stepward.worker")
	}
}

// A worker that is stopped in the middle of a step, and wakes up after another
// one has taken its run over and finished it, writes nothing more. It is of use
// again after that.
func TestZombieProcess(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.travel("a", "hold", "c")
	zombie := f.startVictim(victimConfig{Name: "zombie", Hold: "deaf", LeaseTTL: time.Second}, "")
	eventually(t, "step hold begins", func() bool { return slices.Contains(r.visits(), "hold") })
	zombie.signal(syscall.SIGSTOP)
	before, visited := r.checkpoints(), len(r.visits())
	stop := f.takeOver()
	r.arrives(t.Context(), before, visited)
	after, rows := r.checkpoints(), f.everything()

	if err := os.WriteFile(r.in.Log+".go", nil, 0o600); err != nil { // its step returns now
		t.Fatal(err)
	}
	zombie.signal(syscall.SIGCONT)
	// It notices, and begins a session that claims; nobody else does.
	stop()
	next := f.travel("b", "c")
	next.arrives(t.Context(), nil, 0)
	if s := f.state(next.run.ID); s.Worker != "zombie" && s.Worker != "" {
		t.Errorf("the next run was on %q", s.Worker)
	}
	f.exec("DELETE FROM stepward.step WHERE run_id = $1", next.run.ID)
	f.exec("DELETE FROM stepward.run WHERE id = $1", next.run.ID)
	if got := f.everything(); got != rows {
		t.Errorf("the zombie changed what was there:\n%s\nwas\n%s", got, rows)
	}
	if got := r.checkpoints(); !maps.Equal(got, after) {
		t.Errorf("checkpoints were %v, are %v", after, got)
	}
	zombie.signal(syscall.SIGTERM)
	zombie.diedOf(0)
}

// everything returns all runs and steps as text.
func (f *fixture) everything() (text string) {
	f.t.Helper()
	err := f.pool.QueryRow(f.t.Context(), f.sql(`SELECT
		(SELECT string_agg(r::text, E'\n' ORDER BY id) FROM stepward.run r) || E'\n' ||
		(SELECT string_agg(s::text, E'\n' ORDER BY run_id, seq) FROM stepward.step s)`)).Scan(&text)
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// A connection that breaks does not end what Postgres executes for it: a commit
// whose answer is lost may still wait for a lock when the worker sends it again,
// and then both go on at once. They write the same, once.
func TestCommitBehindItself(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l, pool := newLine(t, false)
	l.deaf = true // the driver tries to end what it has given up
	began, release := make(chan struct{}), make(chan struct{})
	step := workflow.NewStep("hold", func(context.Context, int) (int, error) {
		close(began)
		<-release
		return 42, nil
	}, workflow.StepOptions{})
	w := workflow.DurableWorkflow[int, int]{Name: "holds"}
	f.start(worker.Config{Pool: pool, LeaseTTL: 30 * time.Second, Workflows: []*workflow.Definition{
		workflow.Define(w, func(ctx workflow.Context, n int) (int, error) {
			n, err := step.Run(ctx, n)
			if err != nil {
				return 0, err
			}
			return double.Run(ctx, n)
		}, workflow.Options{Steps: []workflow.Declared{step, double}}),
	}})
	run, err := w.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	arrives(t, began)
	lock := f.begin()
	if _, err := lock.Exec(t.Context(), f.sql("LOCK TABLE stepward.step IN SHARE MODE")); err != nil {
		t.Fatal(err)
	}
	waiting := func(n int) func() bool { // so many wait for the lock, one behind the other
		return func() bool {
			return f.count(`WITH first AS (SELECT pid FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))
				SELECT count(*) FROM pg_stat_activity WHERE pid IN (SELECT pid FROM first)
				OR pg_blocking_pids(pid) && (SELECT array_agg(pid) FROM first)`, int32(lock.Conn().PgConn().PID())) == n
		}
	}
	close(release)
	eventually(t, "the commit waits", waiting(1))
	l.cut()
	l.mend()
	eventually(t, "the second commit waits as well", waiting(2))
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the run moves", func() bool { s := f.state(run.ID).State; return s != workflow.StateRunning })
	if s := f.state(run.ID); s.State == workflow.StateParked {
		t.Fatalf("the run is parked: %v", s.Err)
	}
	if out, err := outcome(t, f.client, run); err != nil || out != 84 {
		t.Fatalf("got %d, %v", out, err)
	}
	if s := f.state(run.ID); s.Turns != 1 || f.count("SELECT count(*) FROM stepward.step") != 2 || f.count("SELECT count(*) FROM stepward.turn") != 0 {
		t.Errorf("the run took %d turns", s.Turns)
	}
}

// breaks closes a connection when a statement of River is about to be sent, once.
type breaks struct {
	schema string
	once   sync.Once
}

func (b *breaks) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, b.schema) {
		b.once.Do(func() { _ = conn.PgConn().Conn().Close() }) // the statement says so
	}
	return ctx
}

func (b *breaks) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A connection that breaks while River is started does not end the worker.
func TestOutageAtStart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	b := &breaks{schema: f.schema + "_river"}
	cfg := parsePool(t, databases.URL(t))
	cfg.ConnConfig.Tracer = b
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f.start(worker.Config{Pool: pool, Workflows: []*workflow.Definition{chainV1}})
	run, err := chain.Enqueue(t.Context(), f.client, 2, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 4)
	b.once.Do(func() { t.Error("the connection did not break") })
}
