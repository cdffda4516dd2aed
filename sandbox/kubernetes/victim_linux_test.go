package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"k8s.io/client-go/rest"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// envVictim makes the test binary a worker that is to be killed.
const envVictim = "KUBE_TEST_VICTIM"

// A victim is what such a worker is told.
type victim struct {
	URL, Schema, Name  string
	Account, Namespace string // whose rights it has, and where
	Image              string
	Can                sandbox.Capabilities // see known
	UserNS             bool
	Warm               worker.Warm
	LeaseTTL           time.Duration
	MaxSandboxes       int
	Before, After      int32 // kills itself before this commit, or after this one
}

// beVictim is main of such a process, which ends by being killed.
func beVictim(config string) error {
	var v victim
	if err := json.Unmarshal([]byte(config), &v); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	pc, err := pgxpool.ParseConfig(v.URL)
	if err != nil {
		return err
	}
	pc.ConnConfig.Tracer = &commits{before: v.Before, after: v.After}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return err
	}
	defer pool.Close()
	b := New(Config{Namespace: v.Namespace, RunnerImage: v.Image})
	c, err := b.connect(ctx)
	if err != nil {
		return err
	}
	b = New(Config{REST: as(c.rest, v.Account), Namespace: v.Namespace, RunnerImage: v.Image})
	b.found = &found{can: v.Can, userns: v.UserNS}
	return worker.Run(ctx, worker.Config{
		Pool: pool, Schema: v.Schema, Name: v.Name, Workflows: []*workflow.Definition{censusV1, followV1, swarmV1}, Backends: []sandbox.Backend{b},
		Warm: v.Warm, LeaseTTL: v.LeaseTTL, MaxSandboxes: v.MaxSandboxes,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
}

func as(c *rest.Config, account string) *rest.Config {
	c = rest.CopyConfig(c)
	c.Impersonate.UserName = account
	return c
}

// commits kills its process at one of the commits of turns.
type commits struct {
	n             atomic.Int32
	before, after int32
}

type commitKey struct{}

func (c *commits) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if !strings.HasPrefix(data.SQL, "/* stepward Commit */") {
		return ctx
	}
	n := c.n.Add(1)
	if n == c.before {
		die()
	}
	return context.WithValue(ctx, commitKey{}, n)
}

func (c *commits) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if n, ok := ctx.Value(commitKey{}).(int32); ok && n == c.after {
		die()
	}
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until it arrives
}

// An installation is workers on a place, and their database.
type installation struct {
	*place
	t      testing.TB
	pool   *pgxpool.Pool
	schema string
	client *workflow.Client
}

func (p *place) install(t testing.TB) *installation {
	t.Helper()
	pool, schema := testenv.Postgres(t)
	if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	return &installation{place: p, t: t, pool: pool, schema: schema, client: client}
}

// work runs a worker in this process until the test ends.
func (in *installation) work(cfg worker.Config) {
	in.t.Helper()
	cfg.Pool, cfg.Schema, cfg.Name = in.pool, in.schema, "healthy"
	if cfg.Backends == nil {
		cfg.Backends = []sandbox.Backend{in.backend()}
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, cfg) }()
	in.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			in.t.Error(err)
		}
	})
}

func (in *installation) sql(text string) string {
	return strings.ReplaceAll(text, "stepward.", in.schema+".")
}

func (in *installation) count(sql string) (n int) {
	in.t.Helper()
	if err := in.pool.QueryRow(in.t.Context(), in.sql(sql)).Scan(&n); err != nil {
		in.t.Fatal(err)
	}
	return n
}

// eventually polls until f reports true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	ctx := bounded(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			t.Fatalf("did not happen: %s", what)
		case <-tick.C:
		}
	}
}

// A process is a victim as its test sees it.
type process struct {
	in   *installation
	cmd  *exec.Cmd
	gone chan struct{}
}

func (in *installation) startVictim(v victim) *process {
	in.t.Helper()
	v.URL, v.Schema, v.Account, v.Namespace, v.Image = testenv.PostgresURL(in.t), in.schema, in.rest.Impersonate.UserName, in.name, in.image
	v.Can, v.UserNS = known.can, known.userns
	config, err := json.Marshal(v)
	if err != nil {
		in.t.Fatal(err)
	}
	p := &process{in: in, cmd: exec.Command("/proc/self/exe"), gone: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), envVictim+"="+string(config), "KUBECONFIG="+in.cluster.Kubeconfig)
	var output bytes.Buffer
	p.cmd.Stdout, p.cmd.Stderr = &output, &output
	if err := p.cmd.Start(); err != nil {
		in.t.Fatal(err)
	}
	go func() {
		defer close(p.gone)
		_ = p.cmd.Wait() // how it ended is looked at
	}()
	in.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it has died already, or shall now
		<-p.gone
		if in.t.Failed() {
			in.t.Logf("output of %s:\n%s", v.Name, output.String())
		}
	})
	return p
}

// dies waits for the victim to be killed.
func (p *process) dies() {
	p.in.t.Helper()
	select {
	case <-p.gone:
	case <-bounded(p.in.t).Done():
		p.in.t.Fatal("the victim lives on")
	}
	if status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		p.in.t.Fatalf("the victim ended with %v", p.cmd.ProcessState)
	}
}

// believedDead has nobody wait for the lease of a victim.
func (p *process) believedDead() {
	p.in.t.Helper()
	if _, err := p.in.pool.Exec(p.in.t.Context(), p.in.sql("UPDATE stepward.worker SET lease_until = clock_timestamp() - interval '1 second' WHERE state = 'live'")); err != nil {
		p.in.t.Fatal(err)
	}
}

func mainOfVictim(config string) int {
	if err := beVictim(config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
