//go:build unix

package worker_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/stepward/stepward/internal/devdb"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A trouble is what happens to a fleet while it is at work.
type trouble struct {
	What string
	N    int // of what, or when
}

// Troubles by name. Those of the first kind change nothing that a client sees.
var (
	mishaps = []string{"none", "reap", "deploy", "lose", "double", "sever", "deaf", "cut", "freeze", "crash", "ahead", "back"}
	wishes  = []string{"coin", "coin", "trigger", "pause", "resume", "cancel", "terminate"}
)

func troubles(names ...string) *rapid.Generator[[]trouble] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) trouble {
		return trouble{rapid.SampledFrom(names).Draw(t, "what"), rapid.IntRange(0, 30).Draw(t, "n")}
	}), 0, 12)
}

// A fleet is two workers, "one" and "two", on lines of their own, and a database
// whose clock can be set.
type fleet struct {
	*fixture
	url     string
	set     func(interval string)
	clients *pgxpool.Pool // of the client
	hours   int           // that the clock is ahead
	turned  int           // that it was set back, in all
	losses  int           // turns that may have been lost with their worker
	members map[string]*member
	victim  *process
}

// A member is a worker and its way to Postgres.
type member struct {
	line *line
	cut  *cut
	deaf atomic.Bool
	pool *pgxpool.Pool
	stop func()
}

func newFleet(t *testing.T) *fleet {
	pool, schema := testenv.Postgres(t)
	return fleetOn(&fixture{t: t, pool: pool, schema: schema}, testenv.PostgresURL(t))
}

// newDoomedFleet has a Postgres of its own, which may be killed.
func newDoomedFleet(t *testing.T) *fleet {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("stepward-model-%d", os.Getpid())) // short: it holds a socket
	own, err := devdb.Open(t.Context(), devdb.Config{Dir: dir, Ways: []devdb.Way{devdb.WayLocal}})
	if err != nil {
		testenv.Skip(t, testenv.PartPostgres, err.Error())
	}
	t.Cleanup(own.Close)
	pool, err := pgxpool.New(t.Context(), own.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return fleetOn(&fixture{t: t, pool: pool, schema: "doomed"}, own.URL)
}

func fleetOn(fx *fixture, at string) *fleet {
	t := fx.t
	f := &fleet{fixture: fx, members: make(map[string]*member)}
	var open func(*line) *pgxpool.Pool
	f.set, open = f.withClock(at)
	f.appTables()
	f.clients = open(nil)
	var err error
	if f.client, err = workflow.NewClient(workflow.ClientConfig{Pool: f.clients, Schema: f.schema}); err != nil {
		t.Fatal(err)
	}
	f.url = at + "?" // where processes find Postgres, with the clock
	if u, err := url.Parse(at); err == nil && u.RawQuery != "" {
		f.url = at + "&"
	}
	f.url += "search_path=" + f.schema + "_clock,pg_catalog" // without a space, which the driver would take for a plus
	for _, name := range []string{"one", "two"} {
		m := &member{
			line: &line{silent: true, up: make(chan struct{}), conns: make(map[*lineConn]bool)},
			cut:  &cut{crash: &crash{statement: "*", when: "cut"}, mark: t.TempDir() + "/cut"},
		}
		cfg := parsePool(t, f.url)
		cfg.ConnConfig.RuntimeParams["application_name"] = f.schema + "/" + name
		cfg.ConnConfig.Tracer = m.cut
		cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := m.line.dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &cutConn{Conn: conn, r: bufio.NewReader(conn), mark: m.cut.mark, deaf: &m.deaf}, nil
		}
		if m.pool, err = pgxpool.NewWithConfig(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.pool.Close)
		f.members[name] = m
	}
	f.set("1 hour")
	for name, m := range f.members {
		var ahead bool
		if err := m.pool.QueryRow(t.Context(), "SELECT clock_timestamp() > pg_catalog.clock_timestamp() + interval '59 minutes'").Scan(&ahead); err != nil || !ahead {
			t.Fatalf("the clock of worker %s cannot be set: %v", name, err)
		}
	}
	f.set("0")
	return f
}

// appTables makes the tables of the application that random runs write to.
func (f *fixture) appTables() {
	f.t.Helper()
	f.exec("CREATE TABLE stepward.paid (run_id bigint NOT NULL, key text NOT NULL)")
	f.exec("CREATE TABLE stepward.luck AS SELECT false AS bad")
}

func (f *fleet) begin(name string) {
	m := f.members[name]
	cfg := worker.Config{Name: name, Pool: m.pool, LeaseTTL: 5 * time.Second, DrainTimeout: time.Millisecond,
		Workflows: []*workflow.Definition{randomV1, childV1}}
	if name == "one" { // reads results one by one
		cfg = cfg.WithHistory(1).WithPage(10)
	}
	m.stop = f.start(cfg)
}

func (f *fleet) end(name string) {
	if stop := f.members[name].stop; stop != nil {
		f.members[name].stop = nil
		stop()
	}
}

// calm ends all troubles, but for what the runs have taken from them.
func (f *fleet) calm() {
	f.relieve()
	for _, m := range f.members {
		m.line.mend()
		m.deaf.Store(false)
	}
	if f.turned > 0 { // what sleeps by the time before
		f.clock(f.hours + f.turned)
		f.turned = 0
	}
}

func (f *fleet) stop() {
	f.calm()
	for name := range f.members {
		f.end(name)
	}
}

func (f *fleet) clock(hours int) {
	f.hours = hours
	f.losses++ // all leases have run out, if it leaps ahead
	f.set(fmt.Sprint(hours, " hours"))
}

// relieve puts worker two in the place of a process that is to crash.
func (f *fleet) relieve() {
	if f.victim == nil {
		return
	}
	_ = f.victim.cmd.Process.Kill() // unless it is done
	arrives(f.t, f.victim.gone)
	f.victim = nil
	f.expire("victim")
	f.begin("two")
}

// deserted reports whether no worker is left that could do anything.
func (f *fleet) deserted() bool {
	l := f.members["one"].line
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.down || f.victim == nil {
		return false
	}
	select {
	case <-f.victim.gone:
		return true
	default:
		return false
	}
}

// happen lets a trouble come over the fleet, and over a run.
func (f *fleet) happen(x trouble, run workflow.Run[int], bad func(...any)) {
	name := []string{"one", "two"}[x.N%2]
	var err error
	switch x.What {
	case "reap":
		f.losses++
		f.expire(name)
	case "deploy":
		if f.victim == nil {
			f.members["two"].line.mend()
			f.end("two")
			f.begin("two")
		}
	case "lose":
		f.exec("DELETE FROM stepward_river.river_job WHERE state = 'available'")
	case "double":
		f.exec(`INSERT INTO stepward_river.river_job (args, kind, queue, max_attempts, state)
			SELECT '{"count": 1}', CASE n WHEN 3 THEN 'foreign' ELSE 'stepward_ticket' END, 'stepward', 1, 'available' FROM generate_series(1, 3) n`)
	case "sever": // all connections of a worker, in the middle of whatever they do
		f.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", f.schema+"/"+name)
	case "deaf": // it gets no notification for as long as the troubles last, and has to look for itself
		f.members[name].deaf.Store(true)
	case "cut": // the answer to one of its next writes is lost
		c := f.members[name].cut.crash
		c.mu.Lock()
		c.left = 1 + x.N/2
		c.mu.Unlock()
	case "freeze": // it hears and says nothing for as long as the troubles last
		f.losses++
		f.members["one"].line.cut()
		f.expire("one")
	case "crash": // a process instead, which dies at one of its first writes
		f.relieve()
		f.members["two"].line.mend()
		f.end("two")
		f.losses++
		f.victim = f.startVictim(victimConfig{URL: f.url, Name: "victim", Random: true}, fmt.Sprintf("*:%s:%d", []string{"before", "after"}[x.N%2], 1+x.N))
	case "postgres": // all sessions end, and the database recovers from its log
		other, err := pgx.ConnectConfig(f.t.Context(), f.pool.Config().ConnConfig)
		if err != nil {
			bad(err)
		}
		if err := syscall.Kill(f.count("SELECT pg_backend_pid()"), syscall.SIGKILL); err != nil {
			bad(err)
		}
		_, _ = other.WaitForNotification(f.t.Context()) // until it is ended: from then on nobody is let in who would be ended as well
		f.pool.Reset()
		f.clients.Reset()
		eventually(f.t, "postgres is back", func() bool {
			return f.pool.Ping(f.t.Context()) == nil && f.clients.Ping(f.t.Context()) == nil
		})
	case "ahead":
		f.clock(f.hours + 1)
	case "back":
		if f.hours > 0 {
			f.turned++
			f.clock(f.hours - 1)
		}
	case "pause":
		err = f.client.Pause(f.t.Context(), run.ID)
	case "resume":
		err = f.client.Resume(f.t.Context(), run.ID)
	case "cancel":
		err = run.Cancel(f.t.Context())
	case "terminate":
		err = f.client.Terminate(f.t.Context(), run.ID)
	}
	if err != nil && !refuses(err) {
		bad(x.What, err)
	}
}
