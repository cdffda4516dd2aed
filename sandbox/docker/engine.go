package docker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/sandbox"
)

// An engine is what a Docker engine says of itself.
type engine struct {
	system.Info
	key     string // short name of the engine, for host paths
	arch    string // as GOARCH has it
	userns  bool
	seccomp bool
	bind    bool  // may share our file system
	gvisor  bool  // is what runs the sandboxes
	podman  bool  // and not Docker
	ceiling int64 // of memory, in bytes: gVisor ends there; 0 without
}

// Socket returns the path of the engine's socket, if it has one on this host. Who may use it can look into every
// sandbox of the backend.
func (b *Backend) Socket() string {
	path, ok := strings.CutPrefix(b.host(), "unix://")
	if !ok {
		return ""
	}
	return path
}

// Exposed says why others than who may use a socket, or has a certificate, could use the engine, as far as its address
// tells. It is "" if that is a path, or TCP with TLS in which both sides are verified: DOCKER_TLS_VERIFY, and DOCKER_CERT_PATH.
func (b *Backend) Exposed() string {
	scheme, at, _ := strings.Cut(b.host(), "://")
	switch {
	case scheme == "unix" && filepath.IsAbs(at):
		return ""
	case scheme == "unix":
		return "the engine's socket " + at + " is no file"
	case (scheme == "tcp" || scheme == "https") && os.Getenv(client.EnvOverrideCertPath) != "" && os.Getenv(client.EnvTLSVerify) != "":
		return ""
	}
	return "the engine is at " + scheme + "://, without TLS that verifies both sides: whoever reaches it may use it"
}

// host is the address of the engine.
func (b *Backend) host() string {
	return cmp.Or(b.config.Host, os.Getenv(client.EnvOverrideHost), client.DefaultDockerHost)
}

// connect returns the client and the engine's own account of what it can do.
func (b *Backend) connect(ctx context.Context) (*client.Client, *engine, error) {
	if api, e, err := b.known(); e != nil || err != nil {
		return api, e, err
	}
	done, err := b.find(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	api, e, err := b.known()
	if e != nil || err != nil {
		return api, e, err
	}
	if e, err = b.meet(ctx, api); err != nil {
		return nil, nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.api == api { // else it was closed
		b.engine = e
	}
	return api, e, nil
}

// known returns the client, and the engine if that is known.
func (b *Backend) known() (*client.Client, *engine, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.api == nil {
		opts := []client.Opt{client.FromEnv}
		if b.config.Host != "" {
			opts = append(opts, client.WithHost(b.config.Host))
		}
		api, err := client.New(opts...)
		if err != nil {
			return nil, nil, unavailable("the engine's address cannot be used", err)
		}
		b.api = api
	}
	return b.api, b.engine, nil
}

// meet asks the engine what it is.
func (b *Backend) meet(ctx context.Context, api *client.Client) (*engine, error) {
	host, caller := api.DaemonHost(), ctx
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	fail := func(reason string, err error) (*engine, error) {
		switch {
		case caller.Err() != nil:
			return nil, context.Cause(caller)
		case ctx.Err() != nil: // a start waits for this
			reason = fmt.Sprintf("the engine at %s has not answered in %v", host, b.patience)
		}
		return nil, unavailable(reason, err)
	}
	if _, err := api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return fail("no Docker engine answers at "+host+"; start one, or set DOCKER_HOST or docker.Config.Host", err)
	}
	res, err := api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return fail("the engine at "+host+" does not describe itself", err)
	}
	e := &engine{Info: res.Info, arch: goarch(res.Info.Architecture)}
	version, err := api.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return fail("the engine at "+host+" does not say what it is", err)
	}
	e.podman = slices.ContainsFunc(version.Components, func(c system.ComponentVersion) bool { return strings.HasPrefix(c.Name, "Podman") })
	if e.OSType != "linux" {
		return nil, unavailable("the engine at "+host+" runs "+e.OSType+" containers; Linux is needed", nil)
	}
	if e.arch == "" {
		return nil, unavailable("the engine at "+host+" is a "+e.Architecture+"; amd64 or arm64 is needed", nil)
	}
	option := func(name string) bool {
		return slices.ContainsFunc(e.SecurityOptions, func(s string) bool {
			return slices.Contains(strings.Split(s, ","), "name="+name)
		})
	}
	e.key = fmt.Sprintf("%x", sha256.Sum256([]byte(e.ID+e.DockerRootDir)))[:8] // two engines of one host may have one ID
	e.userns = option("userns") || option("rootless")
	e.seccomp = option("seccomp") && !slices.Contains(e.SecurityOptions, "name=seccomp,profile=unconfined")
	// SELinux would keep the container out of a directory of the host.
	e.bind = runtime.GOOS == "linux" && strings.HasPrefix(host, "unix://") && !option("selinux") && os.Getuid() != uid && !b.noBind
	if err := e.runtime(b.config.Runtime); err != nil {
		return nil, err
	}
	return e, nil
}

// patience is how long an engine may be silent where nobody else gives up: at a start, and when what is no use any
// more is removed. What is left of that is swept.
const patience = 15 * time.Second

// undoing returns a context for removing what was made for ctx, also when that has ended.
func (b *Backend) undoing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), b.patience)
}

// runtime finds out what the sandboxes will run in.
func (e *engine) runtime(name string) error {
	r, ok := e.Runtimes[cmp.Or(name, e.DefaultRuntime)]
	if !ok && name != "" && !strings.ContainsAny(name, "./") { // else a shim of containerd's: engines do not list those
		return unavailable(fmt.Sprintf(
			"the engine has no runtime %q, but %q; name it in \"runtimes\" of the engine's daemon.json, and have the engine read that again, or see docker.Config.Runtime",
			name, slices.Sorted(maps.Keys(e.Runtimes))), nil)
	}
	e.gvisor = strings.Contains(path.Base(cmp.Or(r.Path, name))+r.Type, "runsc")
	if !e.gvisor {
		return nil
	}
	// Sockets in a directory of the host are not gVisor's to listen on. What it runs is
	// no process of the host, and what it holds is counted with what gVisor itself
	// does: beyond these limits is the end of the sandbox, not of a command.
	if e.MemoryLimit {
		e.ceiling = DefaultMemory
	}
	e.bind, e.MemoryLimit, e.PidsLimit = false, false, false
	return nil
}

func goarch(machine string) string {
	switch machine {
	case "x86_64", "amd64":
		return "amd64"
	case "aarch64", "arm64":
		return "arm64"
	}
	return ""
}

// limits fills in the defaults, and refuses what cannot be enforced.
func (e *engine) limits(s sandbox.Spec) (sandbox.Limits, error) {
	l := s.Limits
	for _, c := range []struct {
		field    string
		set, can bool
	}{
		{"Limits.Memory", l.Memory != 0, e.MemoryLimit},
		{"Limits.CPU", l.CPU != 0, e.CPUCfsQuota},
		{"Limits.PIDs", l.PIDs != 0, e.PidsLimit},
	} {
		if c.set && !c.can {
			if e.gvisor {
				return l, unsupported(c.field, "gVisor has none for what it runs: the cgroup's would end the sandbox, and a command only with it")
			}
			return l, unsupported(c.field, "the engine's host has no such cgroup (driver "+e.CgroupDriver+")")
		}
	}
	if l.CPU > float64(e.NCPU) {
		return l, unsupported("Limits.CPU", fmt.Sprintf("the engine's host has %d", e.NCPU))
	}
	if field, reason := runner.TooLow(l.Memory, l.CPU, l.OpenFiles); field != "" {
		return l, unsupported(field, reason)
	}
	if l.Memory == 0 && e.MemoryLimit {
		l.Memory = DefaultMemory
	}
	if l.CPU == 0 && e.CPUCfsQuota {
		l.CPU = min(DefaultCPU, float64(e.NCPU))
	}
	if l.PIDs == 0 && e.PidsLimit {
		l.PIDs = DefaultPIDs
	}
	if l.Disk == 0 {
		l.Disk = DefaultDisk
	}
	if l.OpenFiles == 0 {
		l.OpenFiles = DefaultOpenFiles
	}
	return l, nil
}

// gvisorTasks is how many processes and threads of the host a gVisor may have, which
// are those that it runs and some of its own. It ends there: the host must not.
const gvisorTasks = 4096

// isolation is the kind of it.
func (e *engine) isolation() string {
	if e.gvisor {
		return "gvisor"
	}
	return "container"
}
