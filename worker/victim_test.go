//go:build unix

package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/launcher"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

const (
	envVictim = "STEPWARD_TEST_VICTIM" // makes the test binary a worker
	envCrash  = "STEPWARD_TEST_CRASH"  // statement:before|after|freeze|cut:n, where that worker kills itself, stops, or loses an answer
)

// victim is set in a process that is a worker to be killed.
var victim *victimConfig

type victimConfig struct {
	URL, Schema, Probe string
	Name               string
	Hold               string // see step hold
	Old                bool   // the definition that lacks a step
	NoBackend          bool
	Warm               worker.Warm
	LeaseTTL           time.Duration
	DrainTimeout       time.Duration
	Retention          time.Duration // of runs that failed
	CutMark            string        // see cutConn
	Random             bool          // of TestModel
	Swarm              string        // the backend of TestNoSandboxIsLeft
	Engine             string        // the Docker engine's address, where it makes sandboxes
	Broker             string        // the address of one: it has workflow entrusted
	Launcher           string        // the address of one that makes its sandboxes
	User               uint32        // that it runs as, if not the test's
	Patience           time.Duration // with a launcher that is away
	Serves             string        // the path of a socket: it is a broker there, that makes sandboxes with Engine
	Dir                string        // of that broker's key
	Kill               time.Duration // of what has secrets that are not renewed
	Client             string        // it is a client: see TestKillClient
	Run                int64         // of what that does
}

// beVictim is main of such a process. SIGTERM drains it.
func beVictim(config string) int {
	victim = new(victimConfig)
	if err := json.Unmarshal([]byte(config), victim); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	pc, err := pgxpool.ParseConfig(victim.URL)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if at := os.Getenv(envCrash); at != "" {
		c, err := parseCrash(at)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		pc.ConnConfig.Tracer = c
		if c.when == "cut" {
			cut := &cut{crash: c, mark: victim.CutMark}
			pc.ConnConfig.Tracer, pc.ConnConfig.DialFunc = cut, cut.dial
		}
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer pool.Close()
	if victim.Client != "" {
		return beClient(ctx, pool)
	}
	if victim.Serves != "" {
		return beBroker(ctx, pool)
	}
	cfg := worker.Config{
		Pool: pool, Schema: victim.Schema, Name: victim.Name, Workflows: []*workflow.Definition{journeyNew, kinV1, censusV1, halveV1},
		LeaseTTL: victim.LeaseTTL, Retention: worker.Retention{Failed: victim.Retention}, DrainTimeout: victim.DrainTimeout, Backends: []sandbox.Backend{}, Warm: victim.Warm,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if victim.Random {
		cfg.Workflows = []*workflow.Definition{randomV1, childV1}
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	if victim.Old {
		cfg.Workflows = []*workflow.Definition{journeyOld}
	}
	if !victim.NoBackend && !victim.Random {
		cfg.Backends = []sandbox.Backend{local.New(local.Config{Program: victim.Probe})}
	}
	if cfg.Broker = victim.Broker; cfg.Broker != "" {
		cfg.Workflows = entrustedOnly
	}
	switch {
	case victim.Swarm != "":
		cfg.Workflows, cfg.Backends = []*workflow.Definition{swarmV1}, []sandbox.Backend{swarmBackend(victim.Swarm, victim.Engine, victim.Probe)}
		cfg.MaxSandboxes = 8
	case victim.Launcher != "":
		b, err := launcher.New(launcher.Config{Broker: victim.Launcher, Patience: victim.Patience})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		cfg.Backends = []sandbox.Backend{b}
	case victim.Engine != "":
		cfg.Backends = []sandbox.Backend{docker.New(docker.Config{Host: victim.Engine, Program: victim.Probe})}
	}
	if err := worker.Run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// workerUser is that of workers which are not to be root.
const workerUser = 65521

// beBroker is main of a process that serves as a broker.
func beBroker(ctx context.Context, pool *pgxpool.Pool) int {
	_ = os.Remove(victim.Serves) // of one that was killed
	ln, err := net.Listen("unix", victim.Serves)
	if err == nil {
		err = os.Chmod(victim.Serves, 0o666)
	}
	if err == nil {
		err = broker.Serve(ctx, ln, broker.Config{
			Pool: pool, Schema: victim.Schema, Dir: victim.Dir, Stores: map[string]broker.Store{"one": oneSecret{}}, Peers: []uint32{0, workerUser},
			Sandboxes: docker.New(docker.Config{Host: victim.Engine, Program: victim.Probe}), Freeze: min(victim.Kill, 15*time.Second), Kill: victim.Kill,
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// crash kills its process before the nth execution of a statement is sent, or
// after its answer has arrived. Statement * is any that writes, and commit is that.
type crash struct {
	statement, when string
	mu              sync.Mutex
	left            int
}

func parseCrash(s string) (*crash, error) {
	f := strings.Split(s, ":")
	if len(f) != 3 || !slices.Contains([]string{"before", "after", "freeze", "cut"}, f[1]) {
		return nil, fmt.Errorf("%s=%q: want statement:before|after|freeze|cut:n", envCrash, s)
	}
	n, err := strconv.Atoi(f[2])
	return &crash{statement: f[0], when: f[1], left: n}, err
}

var statementName = regexp.MustCompile(`^/\* stepward (\w+) \*/`)

type crashKey struct{}

// is reports whether a text is the statement.
func (c *crash) is(sql string) bool {
	m := statementName.FindStringSubmatch(sql)
	return sql == "commit" && c.statement == sql || m != nil && (m[1] == c.statement || c.statement == "*" && writes.MatchString(sql))
}

func (c *crash) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if !c.is(data.SQL) {
		return ctx
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left != 0 {
		return ctx
	}
	if c.when == "before" {
		die()
	}
	return context.WithValue(ctx, crashKey{}, true)
}

func (c *crash) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	switch {
	case ctx.Value(crashKey{}) == nil:
	case c.when == "freeze":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	default:
		die()
	}
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until it arrives
}

// process is a victim as its test sees it.
type process struct {
	*fixture
	cmd    *exec.Cmd
	output bytes.Buffer // read it once the process is gone
	gone   chan struct{}
}

// startVictim starts a worker process that crashes at the point given, if any.
func (f *fixture) startVictim(cfg victimConfig, crashAt string) *process {
	f.t.Helper()
	cfg.Schema = f.schema
	if !cfg.Random && cfg.Client == "" {
		cfg.Probe = sandboxtest.BuildProbe(f.t)
	}
	if cfg.URL == "" {
		cfg.URL = databases.URL(f.t)
	}
	if cfg.Name == "" {
		cfg.Name = "victim"
	}
	config, err := json.Marshal(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	p := &process{fixture: f, cmd: exec.Command("/proc/self/exe"), gone: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), envVictim+"="+string(config), envCrash+"="+crashAt)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if cfg.User != 0 {
		p.cmd.Dir = "/"
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: cfg.User, Gid: cfg.User}}
	}
	if err := p.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	go func() {
		defer close(p.gone)
		var exit *exec.ExitError
		if err := p.cmd.Wait(); err != nil && !errors.As(err, &exit) {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	f.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it has died already, or shall now
		arrives(f.t, p.gone)
		if f.t.Failed() {
			f.t.Logf("output of %s (crash %q):\n%s", cfg.Name, crashAt, p.output.String())
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// frozen reports whether the process was stopped by a signal.
func (p *process) frozen() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.Contains(string(stat), ") T ")
}

// diedOf waits for the process to be ended by the signal; 0 is a normal exit.
func (p *process) diedOf(want syscall.Signal) {
	p.t.Helper()
	select {
	case <-p.gone:
	case <-time.After(patience):
		p.t.Fatal("the victim lives on: its crash point was not reached")
	}
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if want == 0 && !p.cmd.ProcessState.Success() || want != 0 && status.Signal() != want {
		p.t.Fatalf("the victim ended with %v", p.cmd.ProcessState)
	}
}
