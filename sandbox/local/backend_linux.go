package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/image"
	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/internal/nsroot"
	"github.com/stepward/stepward/internal/program"
	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/sandbox"
)

// setupTimeout bounds how long a sandbox may take to come up.
const setupTimeout = 20 * time.Second

// A Backend makes local sandboxes. It is safe for concurrent use.
type Backend struct {
	config  Config
	cgroups *cgroups

	mu  sync.Mutex
	all map[string]*instance

	finding chan struct{}    // holds a value while the program is found
	program *program.Program // for images; nil until one is used
}

// An instance is one sandbox.
type instance struct {
	listed sandbox.Listed
	made   chan struct{} // closed when Create is over; before, all that follows is its own
	open   chan struct{} // closed when control can be dialled
	ending sync.Mutex
	ended  bool

	process *process
	control *nsroot.Control
	group   *group
	image   string      // with its digest
	root    *image.Root // of it
}

// New returns the backend.
func New(c Config) *Backend {
	return &Backend{config: c, cgroups: findCgroups(), all: map[string]*instance{}, finding: make(chan struct{}, 1)}
}

// Name returns "local".
func (*Backend) Name() string { return Name }

// Probe makes a sandbox and destroys it.
func (b *Backend) Probe(ctx context.Context) (sandbox.Capabilities, error) {
	b.cgroups.sweep()
	id := fmt.Sprintf("probe-%d-%d", os.Getpid(), time.Now().UnixNano()%1e9)
	e, err := b.Create(ctx, sandbox.Creation{ID: id})
	if err != nil {
		return sandbox.Capabilities{}, err
	}
	if err := b.Destroy(ctx, id); err != nil {
		return sandbox.Capabilities{}, err
	}
	return sandbox.Capabilities{
		Isolation: e.Isolation, Images: true, UserNS: e.UserNS, Landlock: e.Landlock, Seccomp: e.Seccomp,
		Memory: b.cgroups.has("memory"), CPU: b.cgroups.has("cpu"), PIDs: true, Disk: true, OpenFiles: true, Egress: true, Live: true, Transparent: e.Transparent,
	}, nil
}

// Create makes a sandbox.
func (b *Backend) Create(ctx context.Context, c sandbox.Creation) (sandbox.Enforcement, error) {
	var none sandbox.Enforcement
	limits, err := b.limits(c.Spec)
	if err != nil {
		return none, err
	}
	if mode := os.Getenv(runner.EnvMode); mode != "" {
		return none, unavailable("this program was itself started in a sandbox and went on to its own work: "+
			"bootstrap.Init must be the first call in main", nil)
	}
	inst := &instance{listed: sandbox.Listed{ID: c.ID, Labels: c.Labels, Created: time.Now()}, made: make(chan struct{}), open: make(chan struct{})}
	defer close(inst.made)
	b.mu.Lock()
	if b.all[c.ID] != nil {
		b.mu.Unlock()
		return none, fmt.Errorf("sandbox: %s exists on backend local", c.ID)
	}
	b.all[c.ID] = inst
	b.mu.Unlock()

	facts, err := b.start(ctx, inst, c, limits)
	if err != nil {
		_ = b.end(inst)
		return none, err
	}
	off := layers.Off(ctx)
	return sandbox.Enforcement{
		Backend: Name, Isolation: "namespaces", Image: inst.image, Network: "none", UserNS: !off.Has(layers.IDMap),
		Landlock: facts.Landlock, Seccomp: facts.Seccomp, NoNewPrivs: true, Capabilities: "none",
		ReadOnlyRoot: !off.Has(layers.Mount), Transparent: facts.Redirect, Limits: limits,
	}, nil
}

func (b *Backend) start(ctx context.Context, inst *instance, c sandbox.Creation, limits sandbox.Limits) (nsroot.Facts, error) {
	var none nsroot.Facts
	control, theirs, err := nsroot.NewControl()
	if err != nil {
		return none, err
	}
	defer theirs.Close()
	inst.control = control
	off := layers.Off(ctx)
	path, setup := b.config.Program, nsroot.Setup{}
	if c.Spec.Image != "" && !off.Has(layers.Mount) {
		if path, err = b.useImage(ctx, inst, c.Spec.Image); err != nil {
			return none, err
		}
		setup.Image, setup.Tree = inst.root.Path, detached(inst.root.Path)
		defer setup.Tree.Close()
	}
	ids := pickIDs(off)
	if inst.group, err = b.cgroups.make(c.ID, limits); err == nil {
		inst.process, err = startProcess(ctx, path, theirs, inst.group, ids, off)
	}
	if err != nil {
		return none, explain(err)
	}
	theirs.Close()
	orphan := c.OrphanAfter
	if orphan == 0 {
		orphan = sandbox.DefaultOrphanAfter
	}
	setup.TokenHash, setup.OrphanAfter, setup.Without, setup.Bind = c.TokenHash[:], orphan, off, layers.Bind(ctx)
	setup.Groups = ids.groups
	setup.Disk, setup.PIDs, setup.OpenFiles = limits.Disk, limits.PIDs, limits.OpenFiles
	setup.Memory, setup.Processes = inst.group.file("memory.events", "memory.oom_control"), inst.group.file("pids.events")
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { inst.process.kill() })
	defer stop()
	err = control.Send(setup)
	var facts nsroot.Facts
	if err == nil {
		close(inst.open)
		if c.Reached != nil {
			c.Reached()
		}
		facts, err = control.Wait()
	}
	switch {
	case err == nil && facts.Error != "":
		return none, explain(errors.New(facts.Error))
	case err == nil:
		return facts, nil
	case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return none, context.Cause(ctx)
	}
	inst.process.kill()
	said := strings.TrimSpace(inst.process.output())
	return none, unavailable("the tool runner did not come up. Is bootstrap.Init the first call in main of "+
		inst.process.path+"? It said: "+said, err)
}

// Dial opens a connection to a sandbox of this backend.
func (b *Backend) Dial(_ context.Context, id string) (net.Conn, error) {
	b.mu.Lock()
	inst := b.all[id]
	b.mu.Unlock()
	if inst == nil || !inst.dialable() {
		return nil, fmt.Errorf("%w: no sandbox %s on backend local", sandbox.ErrLost, id)
	}
	f, err := inst.control.Dial()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", sandbox.ErrLost, err)
	}
	defer f.Close()
	return net.FileConn(f)
}

// List returns the sandboxes that this backend made. Those of another process
// end with it.
func (b *Backend) List(_ context.Context, schema string) ([]sandbox.Listed, error) {
	b.cgroups.sweep()
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []sandbox.Listed
	for _, inst := range b.all {
		if inst.listed.Labels.Schema == schema && (!inst.created() || inst.process == nil || !inst.process.over()) {
			out = append(out, inst.listed)
		}
	}
	slices.SortFunc(out, func(a, b sandbox.Listed) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Destroy ends a sandbox. When it returns, no process of it is left. One that is being
// made it waits for.
func (b *Backend) Destroy(ctx context.Context, id string) error {
	b.mu.Lock()
	inst := b.all[id]
	b.mu.Unlock()
	if inst == nil {
		return nil
	}
	select {
	case <-inst.made:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return b.end(inst)
}

func (i *instance) created() bool { return closed(i.made) }

func (i *instance) dialable() bool { return closed(i.open) }

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (b *Backend) end(inst *instance) error {
	inst.ending.Lock()
	defer inst.ending.Unlock()
	if inst.ended {
		return nil // and its name may be another one's
	}
	if inst.process != nil {
		inst.process.kill()
		inst.process.wait()
	}
	if inst.control != nil {
		_ = inst.control.Close()
	}
	err := inst.group.remove()
	if inst.root != nil {
		_ = inst.root.Close()
	}
	inst.ended = err == nil
	b.mu.Lock()
	if b.all[inst.listed.ID] == inst {
		delete(b.all, inst.listed.ID)
	}
	b.mu.Unlock()
	return err
}

// limits fills in the defaults, and refuses what cannot be enforced.
func (b *Backend) limits(s sandbox.Spec) (sandbox.Limits, error) {
	l := s.Limits
	for _, c := range []struct {
		field, controller string
		set               bool
	}{{"Limits.Memory", "memory", l.Memory != 0}, {"Limits.CPU", "cpu", l.CPU != 0}} {
		if c.set && !b.cgroups.has(c.controller) {
			return l, unsupported(c.field, "this process may not make cgroups ("+b.cgroups.why+
				"); run the worker as root, leave the limit out, or use a container backend")
		}
	}
	if field, reason := runner.TooLow(l.Memory, l.CPU, l.OpenFiles); field != "" {
		return l, unsupported(field, reason)
	}
	if l.Memory == 0 && b.cgroups.has("memory") {
		l.Memory = DefaultMemory
	}
	if l.PIDs == 0 {
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
