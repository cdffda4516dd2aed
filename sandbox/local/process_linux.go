package local

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/internal/nsroot"
	"github.com/stepward/stepward/internal/runner"
)

// A process is the first one of a sandbox.
type process struct {
	path string
	cmd  *exec.Cmd
	out  *bytes.Buffer // what it said before it served; read after it ended
	done chan struct{}
}

// busyTimeout bounds how long a program may be open for writing.
const busyTimeout = 5 * time.Second

// startProcess starts the program in new namespaces and in a cgroup, waiting for
// its setup.
//
// Who has just written the program may find it busy: a process that another
// goroutine forks meanwhile has the writer's descriptor, too, until it executes a
// program of its own, and nothing tells of that. The go command does as this does.
func startProcess(ctx context.Context, program string, control *os.File, g *group, ids hostIDs, off layers.Set) (*process, error) {
	deadline := time.Now().Add(busyTimeout)
	for pause := time.Millisecond; ; pause *= 2 {
		p, err := forkProcess(program, control, g, ids, off)
		if !errors.Is(err, unix.ETXTBSY) || time.Now().After(deadline) {
			return p, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func forkProcess(program string, control *os.File, g *group, ids hostIDs, off layers.Set) (*process, error) {
	path := program
	if path == "" {
		path, _ = os.Executable()
		program = "/proc/self/exe" // also when the file was replaced meanwhile
	}
	// By descriptor: the id that executes it may not reach its directory.
	file, err := os.OpenFile(program, unix.O_PATH, 0)
	if err != nil {
		return nil, fmt.Errorf("tool runner: %w", err)
	}
	defer file.Close()
	out := new(bytes.Buffer)
	cmd := command(file, control, off)
	cmd.Stdout = &limited{out} // the same as Stderr: one pipe
	cmd.Stderr = cmd.Stdout
	if err := g.start(cmd); err != nil {
		return nil, err
	}
	p := &process{path: path, cmd: cmd, out: out, done: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	if err := ids.mapTo(cmd.Process.Pid); err != nil {
		p.kill()
		p.wait()
		return nil, err
	}
	return p, nil
}

// command is the start of a program in new namespaces. The program is opened with
// O_PATH.
//
// The process is of the worker's memory until it executes the program (CLONE_VFORK): a
// copy of that memory's tables took 7 ms for each 100 MiB of the worker's heap, and each
// page that the worker wrote to afterwards a fault. Package syscall would have the parent
// map ids meanwhile, which cannot be, so they are mapped afterwards.
func command(program, control *os.File, off layers.Set) *exec.Cmd {
	flags := uintptr(unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
		unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP)
	if off.Has(layers.Network) {
		flags &^= unix.CLONE_NEWNET
	}
	if off.Has(layers.PID) {
		flags &^= unix.CLONE_NEWPID
	}
	if _, err := os.Stat("/proc/self/ns/cgroup"); err != nil {
		flags &^= unix.CLONE_NEWCGROUP
	}
	return &exec.Cmd{
		Path:       nsroot.ProgramPath,
		Args:       []string{"stepward-runner"},
		Env:        []string{runner.EnvMode + "=local"},
		Dir:        "/",
		ExtraFiles: []*os.File{control, program}, // what is not named here may lose its number to a pipe of os/exec on the way
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: flags | unix.CLONE_VM | unix.CLONE_VFORK,
			// To take on the ids, to mount, to bring up the loopback interface, and to give up the rest.
			AmbientCaps: []uintptr{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SETPCAP},
			Setsid:      true,
		},
	}
}

func (p *process) kill() { p.cmd.Process.Kill() }

// wait returns when the process, and with it its process namespace, has ended.
func (p *process) wait() { <-p.done }

func (p *process) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// output returns what the process said. It waits for its end.
func (p *process) output() string {
	p.wait()
	return p.out.String()
}

// limited keeps the beginning of what is written.
type limited struct{ b *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), max(0, 4096-l.b.Len()))])
	return len(p), nil
}

// hostBase begins a range of ids that systemd's list of ranges leaves unused.
const hostBase = 1879048192

var seed = maphash.MakeSeed()

// hostIDs are the ids that a new sandbox has outside.
type hostIDs struct {
	uid, gid int
	groups   bool // supplementary groups can be dropped
}

// pickIDs returns ids for a new sandbox. For root they are nobody's, and different for
// each sandbox; for an ordinary user they can only be its own.
func pickIDs(off layers.Set) hostIDs {
	own := hostIDs{os.Getuid(), os.Getgid(), os.Getuid() == 0}
	if own.uid != 0 || off.Has(layers.IDMap) {
		return own
	}
	raw, _ := os.ReadFile("/proc/self/uid_map")
	id := pickID(string(raw), int(maphash.Comparable(seed, new(byte))%(1<<24)))
	if id == 0 {
		own.groups = false
		return own
	}
	return hostIDs{id, id, true}
}

// mapTo gives the user namespace of a new process its ids, which the process takes on
// once it has its setup.
func (h hostIDs) mapTo(pid int) error {
	setgroups := "deny"
	if h.groups {
		setgroups = "allow"
	}
	for _, f := range []struct{ name, text string }{
		{"uid_map", fmt.Sprintf("%d %d 1\n", nsroot.UID, h.uid)},
		{"setgroups", setgroups},
		{"gid_map", fmt.Sprintf("%d %d 1\n", nsroot.UID, h.gid)},
	} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, f.name), []byte(f.text), 0); err != nil {
			return fmt.Errorf("map ids: %w", err)
		}
	}
	return nil
}

// pickID returns an unused id out of what this user namespace maps: 0 if it
// maps none but root.
func pickID(idmap string, n int) int {
	best := 0
	for _, line := range strings.Split(strings.TrimSpace(idmap), "\n") {
		var inside, outside, size int
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			continue
		}
		if inside <= hostBase && hostBase+1<<24 < inside+size {
			return hostBase + n
		}
		if last := inside + size - 1; size > 20000 { // below 65534, which is nobody
			best = max(best, cmp.Or(last-10-n%8000, 1))
		}
	}
	return best
}

// explain turns the failure to make namespaces into one that says what to do.
func explain(err error) error {
	reason := "making namespaces failed"
	read := func(path string) string {
		raw, _ := os.ReadFile(path)
		return strings.TrimSpace(string(raw))
	}
	var ge groupError
	const ways = "; use package sandbox/docker, or run the worker as root"
	switch {
	case errors.As(err, &ge):
		reason = "cgroups looked usable, but are not"
	case read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" && os.Getuid() != 0:
		reason = "AppArmor forbids ordinary users to use user namespaces (Ubuntu 23.10 and later): give this program an AppArmor " +
			"profile with \"userns,\", or set the sysctl kernel.apparmor_restrict_unprivileged_userns=0" + ways
	case read("/proc/sys/kernel/unprivileged_userns_clone") == "0" && os.Getuid() != 0:
		reason = "the kernel forbids ordinary users to make user namespaces: set the sysctl kernel.unprivileged_userns_clone=1" + ways
	case read("/proc/sys/user/max_user_namespaces") == "0":
		reason = "the sysctl user.max_user_namespaces is 0: raise it, or use package sandbox/docker"
	case errors.Is(err, unix.ENOSPC):
		reason = "there are too many namespaces, or they are nested too deeply: see the sysctls user.max_*_namespaces"
	case errors.Is(err, unix.ETXTBSY):
		reason = "the tool runner's program is open for writing"
	case errors.Is(err, unix.EACCES), strings.Contains(err.Error(), "execute the program"):
		reason = "the tool runner's program cannot be executed by the sandbox's id: make it readable and executable for all"
	case errors.Is(err, unix.EPERM):
		reason = "making namespaces is not permitted here. In a container, its seccomp profile forbids it, or the process is in a chroot" + ways
	case strings.Contains(err.Error(), "mount /proc"):
		reason = "this container hides parts of /proc, so that a new one cannot be mounted: run it with unmasked paths " +
			"(docker run --security-opt systempaths=unconfined), or use package sandbox/docker"
	}
	return unavailable(reason, err)
}
