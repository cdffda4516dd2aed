package broker

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/launch"
	"github.com/stepward/stepward/sandbox"
)

// Config configures [Serve]. Every field but Stores may be left zero by a broker that a
// worker starts; others need a Pool as well.
type Config struct {
	// Stores hold the secrets, by the scheme of the references to them ("file",
	// "vault"); required.
	Stores map[string]Store

	// Pool is where the broker reads what is on record about runs, and records what it
	// issues: with the rights of BrokerRole of workflow.MigrateOptions. A broker that a worker
	// starts defaults to the worker's database, with its rights.
	Pool *pgxpool.Pool

	// Schema is the Postgres schema, as in workflow.ClientConfig. Defaults to
	// "stepward", or to that of the worker that starts the broker.
	Schema string

	// Dir keeps the broker's own key, in a file that is made at the first start. Brokers
	// with the same key are one: each can renew what another has issued. Defaults to stepward
	// in the user's configuration directory.
	Dir string

	// Peers are the user ids whose processes may connect to a unix socket. Defaults to the broker's own.
	Peers []uint32

	// TLS is for workers that connect by TCP: its own certificate, and in ClientCAs who
	// signs those of the workers. A worker without one is not let in, whatever else it says, also of single connections:
	// what its GetConfigForClient returns may name other ClientCAs.
	TLS *tls.Config

	// Attestors can tell, by the name of a backend, whether a sandbox of it is out of the workers' reach: level
	// L2 needs one.
	Attestors map[string]Attestor

	// Sandboxes makes sandboxes for workers, which have them by package sandbox/launcher at this broker's address, and
	// attests them. Its engine is the broker's alone: the program of docker.Config has to be named, as it is the
	// workers', and a worker whose user may use its socket has level L1-dev. So have all on the broker's host, and none has
	// L2, if it listens by TCP without TLS that verifies both sides.
	// To the workers of this Pool and Schema all others' sandboxes do not exist, if package sandbox/docker makes them.
	Sandboxes sandbox.Backend

	// Images are what the Spec.Image of workers may be, besides none, which is the default of Sandboxes: "app" with any
	// tag or digest, "app:1", or "app@sha256:…" with that digest; * in a name, as in "registry.example.com/team/*", is
	// anything but a slash. Names are compared as they are written. Empty: workers name no image. What the engine lacks
	// it pulls if the name has a registry, unless docker.Config.NoPull says not to.
	Images []string

	// Roots are what the hosts of identity.Inject are trusted by. Defaults to those of the system.
	Roots *x509.CertPool

	// Freeze is how long a sandbox goes on with secrets that cannot be renewed, and
	// Kill, when it is ended. Both count from the last renewal. Default to 15 and 90
	// seconds, which are the most.
	Freeze, Kill time.Duration

	// Timeout bounds one fetch from a store. Defaults to 10 seconds.
	Timeout time.Duration

	Logger *slog.Logger // defaults to slog.Default
}

// What a hard revocation promises, see package identity, holds for every broker.
const (
	maxFreeze = envelope.FreezeDefault
	maxKill   = envelope.KillDefault
)

var schemeForm = regexp.MustCompile(`^[a-z][a-z0-9+.-]{0,31}$`)

func (c Config) withDefaults() (Config, error) {
	c.Freeze = cmp.Or(c.Freeze, maxFreeze)
	c.Kill = cmp.Or(c.Kill, maxKill)
	c.Timeout = cmp.Or(c.Timeout, 10*time.Second)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Peers == nil && os.Getuid() >= 0 {
		c.Peers = []uint32{uint32(os.Getuid())}
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("broker: "+format, args...)) }
	if c.Pool == nil {
		bad("Config.Pool is required")
	}
	if len(c.Stores) == 0 {
		bad("Config.Stores is empty")
	}
	for scheme, s := range c.Stores {
		if !schemeForm.MatchString(scheme) {
			bad("Config.Stores: bad scheme %q", scheme)
		}
		if s == nil {
			bad("Config.Stores: no store for %q", scheme)
		}
	}
	if err := launch.Images(c.Images).Check(); err != nil {
		bad("Config.Images: %w", err)
	}
	if len(c.Images) > 0 && c.Sandboxes == nil {
		bad("Config.Images are of Sandboxes, and there are none")
	}
	for backend, a := range c.Attestors {
		if backend == "" || a == nil {
			bad("Config.Attestors: no attestor for %q", backend)
		}
	}
	if c.TLS != nil && (c.TLS.ClientCAs == nil || len(c.TLS.Certificates) == 0 && c.TLS.GetCertificate == nil) {
		bad("Config.TLS: want a certificate, and ClientCAs")
	}
	if c.Freeze > maxFreeze || c.Kill > maxKill {
		bad("Config.Freeze %v, Kill %v: want %v and %v at most, which is what revocation promises", c.Freeze, c.Kill, maxFreeze, maxKill)
	}
	if c.Freeze < 0 || c.Timeout < 0 || c.Kill < c.Freeze {
		bad("Config.Freeze %v, Kill %v, Timeout %v: want none below zero, and Kill not below Freeze", c.Freeze, c.Kill, c.Timeout)
	}
	if c.Dir == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			bad("Config.Dir is empty, and there is no default: %v", err)
		}
		c.Dir = filepath.Join(dir, "stepward")
	}
	return c, errors.Join(errs...)
}
