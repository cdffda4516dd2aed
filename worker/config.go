package worker

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/payload"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// Config configures [Run]. Every field but Pool and Workflows may be left zero.
type Config struct {
	// Pool holds runs and checkpoints; required, with two connections at least.
	// The worker uses up to four of its connections at a time for itself (claims,
	// commits, maintenance, River), and opens two connections outside of it: one
	// for its heartbeat, one for River's notifications. The transactions of
	// workflow.NewTxStep have connections of the worker's own as well, opened as
	// they are needed, and as many as Pool may have at most.
	Pool *pgxpool.Pool

	// Workflows are what this worker executes; required.
	Workflows []*workflow.Definition

	// Schema is the Postgres schema, as in workflow.ClientConfig. Defaults to
	// "stepward".
	Schema string

	// Name is shown wherever a run's worker is. Defaults to the host's name
	// and the process id.
	Name string

	// HeartbeatURL connects the heartbeat past a pooler that works in
	// transaction mode. Defaults to the pool's own address.
	HeartbeatURL string

	// Backends make sandboxes; the first that works here is used. Defaults to
	// sandbox/local. While none does, runs that need one are left to other workers; a worker
	// that finds one later drains, and starts anew with it.
	Backends []sandbox.Backend

	// MaxRuns is how many runs are held at once. Defaults to 64.
	MaxRuns int

	// MaxSteps is how many attempts execute at once, over all runs. A bare step
	// that ignores its context keeps its place until it returns. Defaults to
	// 256.
	MaxSteps int

	// MaxSandboxes is how many sandboxes exist at once, and how many attempts are in them. Those
	// that steps share are beside it while none is. Defaults to twice the number of
	// processors.
	MaxSandboxes int

	// Warm says how many sandboxes are kept ready beside those. Defaults to none.
	Warm Warm

	// MaxBytes is the limit of an encoded value. Defaults to 1 MiB; at most
	// 64 MiB.
	MaxBytes int

	// Codec is applied to every value before it is stored, as that of
	// workflow.ClientConfig is. Defaults to none.
	Codec workflow.Codec

	// Blobs keeps values of more than 64 KiB, as in workflow.ClientConfig.
	// Defaults to a table.
	Blobs workflow.BlobStore

	// Retention says when runs that have ended are deleted. Its zero value keeps
	// them all.
	Retention Retention

	// LeaseTTL is how long a held run survives without a heartbeat before
	// another worker may claim it. Defaults to 10 seconds; at least 1 second,
	// at most 24 hours.
	LeaseTTL time.Duration

	// StartTimeout is how long an absent Postgres is waited for at the start.
	// Defaults to 30 seconds. A later outage never ends Run.
	StartTimeout time.Duration

	// DrainTimeout is how long steps may go on after Run's context is done.
	// What has not ended then is interrupted and handed back, to be claimed by
	// another worker. Defaults to 30 seconds.
	DrainTimeout time.Duration

	// Broker is where the broker of secrets is, for steps of mode Identity and above: a
	// unix socket (unix:///run/broker.sock), or a host (https://broker:7443), which BrokerTLS
	// then has a certificate of the worker for. Defaults to a child of this process, for which
	// bootstrap.Init has to be the first call in main.
	Broker    string
	BrokerTLS *tls.Config

	Logger         *slog.Logger         // defaults to slog.Default
	TracerProvider trace.TracerProvider // defaults to OpenTelemetry's global one
	MeterProvider  metric.MeterProvider // defaults to OpenTelemetry's global one

	// Health, when set, can be asked how the worker is.
	Health *Health

	history int // bytes of results that a turn reads when it begins; historyDefault
	page    int // checkpoints that a statement reads at most; pageOfSteps
}

// Defaults of [Config].
const (
	LeaseTTLDefault     = 10 * time.Second
	StartTimeoutDefault = 30 * time.Second
	DrainTimeoutDefault = 30 * time.Second
	MaxRunsDefault      = 64
	MaxStepsDefault     = 256
)

func (c Config) withDefaults() Config {
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		c.Name = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	c.LeaseTTL = cmp.Or(c.LeaseTTL, LeaseTTLDefault)
	c.StartTimeout = cmp.Or(c.StartTimeout, StartTimeoutDefault)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, DrainTimeoutDefault)
	c.MaxRuns = cmp.Or(c.MaxRuns, MaxRunsDefault)
	c.MaxSteps = cmp.Or(c.MaxSteps, MaxStepsDefault)
	c.MaxSandboxes = cmp.Or(c.MaxSandboxes, 2*runtime.NumCPU())
	c.MaxBytes = cmp.Or(c.MaxBytes, engine.MaxBytesDefault)
	c.history = cmp.Or(c.history, historyDefault)
	c.page = cmp.Or(c.page, pageOfSteps)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	if c.MeterProvider == nil {
		c.MeterProvider = otel.GetMeterProvider()
	}
	if c.Health == nil {
		c.Health = new(Health)
	}
	return c
}

// maxPlaces is how many runs, steps or sandboxes a worker may be given.
const maxPlaces = 1_000_000

// validate returns all that is wrong with the Config and its definitions.
func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("worker: "+format, args...)) }
	if c.Pool == nil {
		bad("Config.Pool is required")
	} else if n := c.Pool.Config().MaxConns; n < 2 {
		bad("Config.Pool has %d connection, at least 2 are needed", n)
	}
	if len(c.Workflows) == 0 {
		bad("Config.Workflows is empty")
	}
	for name, v := range map[string]int{"MaxRuns": c.MaxRuns, "MaxSteps": c.MaxSteps, "MaxSandboxes": c.MaxSandboxes, "MaxBytes": c.MaxBytes} {
		if v < 0 {
			bad("Config.%s is negative: %d", name, v)
		} else if v > maxPlaces && name != "MaxBytes" {
			bad("Config.%s is %d, at most %d is possible", name, v, maxPlaces)
		}
	}
	if reason := enqueue.BadText(c.Name); reason != "" {
		bad("Config.Name: %s", reason)
	}
	if c.MaxBytes > payload.MaxBytes {
		bad("Config.MaxBytes is %d, at most %d is possible", c.MaxBytes, payload.MaxBytes)
	}
	if c.LeaseTTL < time.Second || c.LeaseTTL > 24*time.Hour {
		bad("Config.LeaseTTL is %v, want 1s to 24h", c.LeaseTTL)
	}
	errs = append(errs, checkBroker(c.Broker, c.BrokerTLS))
	for _, d := range []struct {
		name string
		time.Duration
	}{
		{"StartTimeout", c.StartTimeout}, {"DrainTimeout", c.DrainTimeout}, {"Warm.Idle", c.Warm.Idle},
		{"Retention.Completed", c.Retention.Completed}, {"Retention.Failed", c.Retention.Failed}, {"Retention.Canceled", c.Retention.Canceled},
	} {
		if d.Duration < 0 {
			bad("Config.%s is negative: %v", d.name, d.Duration)
		}
	}
	if c.Warm.Min < 0 || c.Warm.Max < c.Warm.Min || c.Warm.Max > maxPlaces {
		bad("Config.Warm has Min %d and Max %d, want 0 <= Min <= Max <= %d", c.Warm.Min, c.Warm.Max, maxPlaces)
	}
	seen := make(map[[2]string]bool)
	for i, d := range c.Workflows {
		if d == nil {
			bad("Config.Workflows[%d] is nil", i)
			continue
		}
		e := d.Engine()
		errs = append(errs, e.Errs...)
		if key := [2]string{e.Workflow, e.Version}; seen[key] {
			errs = append(errs, &workflow.DefinitionError{Workflow: e.Workflow, Reason: "version " + e.Version + " is defined twice"})
		} else {
			seen[key] = true
		}
	}
	return errors.Join(errs...)
}

// needsSandbox reports whether a step of the definition leaves the worker.
func needsSandbox(d *engine.Definition) bool {
	for _, s := range d.Steps {
		if workflow.Mode(s.Mode) != workflow.Bare {
			return true
		}
	}
	return false
}
