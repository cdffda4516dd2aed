package docker

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/launch"
	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/sandbox"
)

// Create makes and starts a container.
func (b *Backend) Create(ctx context.Context, c sandbox.Creation) (sandbox.Enforcement, error) {
	f, err := b.findings(ctx)
	if err != nil {
		return sandbox.Enforcement{}, err
	}
	return b.create(ctx, c, f)
}

// errNoProgram reports a runner's volume that turned out to be empty.
var errNoProgram = errors.New("the program is not on its volume")

func (b *Backend) create(ctx context.Context, c sandbox.Creation, f found) (sandbox.Enforcement, error) {
	var none sandbox.Enforcement
	api, e, err := b.connect(ctx)
	if err != nil {
		return none, err
	}
	limits, err := e.limits(c.Spec)
	if err != nil {
		return none, err
	}
	img, err := b.image(ctx, api, e, c.Spec.Image)
	if err != nil {
		return none, err
	}
	for again := false; ; again = true {
		err := b.start(ctx, api, e, img, limits, c)
		if errors.Is(err, errNoProgram) && !again {
			b.refill()
			continue
		}
		if err != nil {
			return none, err
		}
		off := layers.Off(ctx)
		if off.Has(layers.Landlock) {
			f.landlock = 0
		}
		network := "none"
		if off.Has(layers.Network) {
			network = "host"
		}
		return sandbox.Enforcement{
			Backend: Name, Isolation: e.isolation(), Image: img.ref, Network: network, UserNS: e.userns,
			Landlock: f.landlock, Seccomp: f.seccomp && !off.Has(layers.Seccomp), NoNewPrivs: true,
			Capabilities: "none", ReadOnlyRoot: true, Transparent: f.redirect && !off.Has(layers.Network) && !off.Has(layers.Redirect), Limits: limits,
		}, nil
	}
}

func (b *Backend) start(ctx context.Context, api *client.Client, e *engine, img image, limits sandbox.Limits, c sandbox.Creation) error {
	prog, err := b.carry(ctx, api, e, img)
	if err != nil {
		return err
	}
	dir, err := b.socketDir(e, c.ID)
	if err != nil {
		return err
	}
	config, host := b.describe(ctx, e, img, prog, limits, c, dir)
	// Not ended by ctx, or the engine might make a container after we have gone:
	// one that nobody knows of. What ctx has ended is destroyed below; what an engine makes
	// that was silent for longer than that is worth is never started, and swept.
	making, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(b.patience):
			cancel()
		case <-making.Done():
		}
	})()
	made, err := api.ContainerCreate(making, client.ContainerCreateOptions{Name: containerName(c.ID), Config: config, HostConfig: host})
	if err != nil && dir != "" && strings.Contains(err.Error(), "bind source path does not exist") {
		// The engine sees another file system than we do.
		dir.remove()
		b.forgetBind()
		dir = ""
		config, host = b.describe(ctx, e, img, prog, limits, c, dir)
		made, err = api.ContainerCreate(making, client.ContainerCreateOptions{Name: containerName(c.ID), Config: config, HostConfig: host})
	}
	if err != nil {
		dir.remove()
		if taken(err) {
			return fmt.Errorf("sandbox: %s exists on backend docker: %w", c.ID, err)
		}
		return fmt.Errorf("sandbox: create a container: %w", err)
	}
	err = b.run(ctx, api, e, made.ID, prog, img, dir, c.ID)
	if err != nil {
		undoing, cancel := b.undoing(ctx)
		defer cancel()
		if derr := b.Destroy(undoing, c.ID); derr != nil {
			err = fmt.Errorf("%w (and destroying it: %w)", err, derr)
		}
	}
	return err
}

// taken reports that a container of this name exists, for which Podman has no error of its own.
func taken(err error) bool {
	return errdefs.IsConflict(err) || err != nil && strings.Contains(err.Error(), "that name is already in use")
}

// createTimeout bounds how long an engine may take to make a container.
const createTimeout = time.Minute

// startTimeout bounds how long a started container may take to be dialled.
const startTimeout = 30 * time.Second

// run starts a container that was made and waits until it can be dialled.
func (b *Backend) run(ctx context.Context, api *client.Client, e *engine, id string, prog *carried, img image, dir socketDir, name string) error {
	if prog.Loader != "" {
		_, err := api.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: prog.Loader})
		if errdefs.IsNotFound(err) {
			return &sandbox.ImageError{
				Backend: Name, Image: img.ref,
				Reason: "has no dynamic loader " + prog.Loader + ", which the program " + prog.Path + " needs; build it with CGO_ENABLED=0, or use an image that has the loader",
			}
		} else if err != nil {
			return fmt.Errorf("sandbox: look for the program's loader: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	witness := launch.Witness(ctx)
	said := listen(ctx, api, id, witness.Backend != "")
	defer said.close()
	died := api.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		if strings.Contains(err.Error(), ProgramPath) && strings.Contains(err.Error(), "no such file") {
			return fmt.Errorf("%w: %w", errNoProgram, err)
		}
		return fmt.Errorf("sandbox: start the container: %w", err)
	}
	if witness.Backend != "" {
		if err := said.tell(witness.Secret); err != nil {
			return fmt.Errorf("sandbox: tell the tool runner what proves it: %w", err)
		}
	}
	ready := make(chan error, 1)
	dialCtx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { ready <- b.ready(dialCtx, api, e, dir, name) }()
	select {
	case err := <-ready:
		if err == nil {
			return nil
		}
		return unavailable("the tool runner of "+name+" cannot be reached. "+said.text(), err)
	case res := <-died.Result:
		stop()
		<-ready //nolint:errcheck // the runner's own words say more
		return unavailable(fmt.Sprintf("the tool runner ended at once, with status %d. Is bootstrap.Init the first call in main of %s? It said: %s",
			res.StatusCode, prog.Path, said.text()), nil)
	}
}

// describe describes the container.
func (b *Backend) describe(ctx context.Context, e *engine, img image, prog *carried, limits sandbox.Limits, c sandbox.Creation, dir socketDir) (*container.Config, *container.HostConfig) {
	orphan := c.OrphanAfter
	if orphan == 0 {
		orphan = sandbox.DefaultOrphanAfter
	}
	off := layers.Off(ctx)
	env := []string{
		runner.EnvMode + "=serve",
		runner.EnvSocket + "=" + dir.inside(),
		runner.EnvTokenHash + "=" + hex.EncodeToString(c.TokenHash[:]),
		runner.EnvOrphanAfter + "=" + orphan.String(),
	}
	witness := launch.Witness(ctx)
	if witness.Backend != "" { // the secret comes by its standard input, which the engine keeps nothing of
		env = append(env, runner.EnvWitness+"="+witness.Backend, runner.EnvWitnessBroker+"="+base64.StdEncoding.EncodeToString(witness.Broker))
	}
	if off != 0 {
		env = append(env, runner.EnvWithout+"="+off.String())
	}
	env = settled(env)
	all := labels(c.ID, c.Labels)
	if s := launch.Installation(ctx); s != "" {
		all[labelInstallation] = s
	}
	if dir != "" {
		all[labelSocket] = dir.outside()
	}
	id := uid
	if off.Has(layers.IDMap) {
		id = 0
	}
	mounts := []mount.Mount{{
		Type: mount.TypeVolume, Source: prog.volume(), Target: programDir, ReadOnly: true,
		VolumeOptions: &mount.VolumeOptions{NoCopy: true, Labels: map[string]string{labelHelper: prog.sha256}},
	}}
	if dir != "" {
		mounts = append(mounts, mount.Mount{Type: mount.TypeBind, Source: dir.shared(), Target: socketDirInside})
	}
	if bind := layers.Bind(ctx); bind != "" {
		mounts = append(mounts, mount.Mount{Type: mount.TypeBind, Source: bind, Target: bind, ReadOnly: true})
	}
	closed := "ro,noexec,nosuid,nodev,size=64k"
	tmpfs := func(mode string) string {
		if e.podman { // which has neither uid, but U for the container's user, nor nr_inodes
			return fmt.Sprintf("rw,exec,nosuid,nodev,notmpcopyup,size=%d,mode=%s,U", limits.Disk, mode)
		}
		return fmt.Sprintf("rw,exec,nosuid,nodev,size=%d,nr_inodes=%d,mode=%s,uid=%d,gid=%d", limits.Disk, max(1<<10, limits.Disk>>10), mode, id, id)
	}
	scratch := map[string]string{runner.Workspace: tmpfs("0755"), "/tmp": tmpfs("1777")}
	if e.podman { // which makes /var/tmp one to write to, and copies what the image has there
		closed += ",notmpcopyup"
		if !off.Has(layers.Mount) {
			scratch["/var/tmp"] = closed
		}
	}
	// What the image wants as a volume the engine would make one of: a place to write
	// without limit, on its disk. It leaves out what something is mounted on, by exactly that path.
	for _, dir := range img.volumes {
		dir = path.Clean(dir)
		if scratch[dir] == "" && !slices.ContainsFunc(mounts, func(m mount.Mount) bool { return m.Target == dir }) {
			scratch[dir] = closed
		}
	}
	host := &container.HostConfig{
		Runtime:        b.config.Runtime,
		AutoRemove:     true,
		NetworkMode:    "none",
		DNS:            []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, // of the tool runner, if there is a network
		Sysctls:        map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"},
		IpcMode:        "none", // and no /dev/shm to write to
		CapDrop:        []string{"ALL"},
		SecurityOpt:    []string{"no-new-privileges"},
		ReadonlyRootfs: true,
		LogConfig:      container.LogConfig{Type: "none"},
		Mounts:         mounts,
		Tmpfs:          scratch,
		Resources: container.Resources{
			Memory: limits.Memory, MemorySwap: limits.Memory, NanoCPUs: int64(limits.CPU * 1e9),
			Ulimits: []*container.Ulimit{
				{Name: "core"},
				{Name: "nofile", Soft: int64(limits.OpenFiles), Hard: int64(limits.OpenFiles)},
			},
		},
	}
	if limits.PIDs != 0 {
		pids := int64(limits.PIDs)
		host.PidsLimit = &pids
	}
	if e.gvisor {
		tasks := int64(gvisorTasks)
		host.PidsLimit, host.Memory, host.MemorySwap = &tasks, e.ceiling, e.ceiling
	}
	if off.Has(layers.Network) {
		host.NetworkMode, host.Sysctls = "host", nil
	}
	if off.Has(layers.PID) {
		host.PidMode = "host"
	}
	if off.Has(layers.Seccomp) {
		host.SecurityOpt = append(host.SecurityOpt, "seccomp=unconfined")
	}
	if off.Has(layers.Mount) {
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: "/var/tmp", Target: "/var/tmp", ReadOnly: true})
	}
	return &container.Config{
		Image: img.id, Hostname: "sandbox", User: fmt.Sprintf("%d:%d", id, id), Env: env, Labels: all, WorkingDir: runner.Workspace,
		Entrypoint:  []string{ProgramPath},
		OpenStdin:   witness.Backend != "",
		StdinOnce:   witness.Backend != "",
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}, host
}

// settled is an environment in which an image has no say about the tool runner: what is not in it is empty.
func settled(env []string) []string {
	for _, name := range runner.Env {
		if !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") }) {
			env = append(env, name+"=")
		}
	}
	return env
}

// Names of the labels. Whatever has labelID is a sandbox; whatever has
// labelHelper brings tool runners to the engine and is shared.
const (
	labelID       = "stepward.id"
	labelSchema   = "stepward.schema"
	labelDatabase = "stepward.database"
	labelSession  = "stepward.session"
	labelRun      = "stepward.run"
	labelStep     = "stepward.step"
	labelAttempt  = "stepward.attempt"
	labelEpoch    = "stepward.epoch"
	labelSocket   = "stepward.socket" // of the tool runner, on the host
	labelHelper   = "stepward.runner"

	labelInstallation = "stepward.installation" // of the broker that makes it
)

func containerName(id string) string { return "stepward-" + id }

func labels(id string, l sandbox.Labels) map[string]string {
	return map[string]string{
		labelID: id, labelSchema: l.Schema, labelDatabase: l.Database, labelStep: l.Step,
		labelSession: strconv.FormatInt(l.Session, 10), labelRun: strconv.FormatInt(l.Run, 10),
		labelAttempt: strconv.Itoa(l.Attempt), labelEpoch: strconv.Itoa(l.Epoch),
	}
}

func parseLabels(m map[string]string) sandbox.Labels {
	l := sandbox.Labels{Schema: m[labelSchema], Database: m[labelDatabase], Step: m[labelStep]}
	l.Session, _ = strconv.ParseInt(m[labelSession], 10, 64)
	l.Run, _ = strconv.ParseInt(m[labelRun], 10, 64)
	l.Attempt, _ = strconv.Atoi(m[labelAttempt])
	l.Epoch, _ = strconv.Atoi(m[labelEpoch])
	return l
}
