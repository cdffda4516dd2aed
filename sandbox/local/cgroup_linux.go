package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/sandbox"
)

// cgroups is where cgroups for sandboxes can be made, of either version.
type cgroups struct {
	dirs map[string]string // controller to directory
	v2   bool
	why  string // there are none
}

// A group is the cgroup of one sandbox, in as many hierarchies as there are.
type group struct{ dirs []string }

const groupPrefix = "stepward-"

// findCgroups looks for controllers under which this process may make a cgroup.
func findCgroups() *cgroups {
	c := &cgroups{dirs: map[string]string{}, why: "no cgroup hierarchy is mounted"}
	own := map[string]string{} // of version 1
	raw, _ := os.ReadFile("/proc/self/cgroup")
	for _, line := range strings.Split(string(raw), "\n") {
		if f := strings.SplitN(line, ":", 3); len(f) == 3 {
			for _, name := range strings.Split(f[1], ",") {
				own[name] = f[2]
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for _, line := range strings.Split(string(mounts), "\n") {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		switch f[2] {
		case "cgroup":
			for _, name := range strings.Split(f[3], ",") {
				if name == "memory" || name == "pids" || name == "cpu" {
					c.offer(name, filepath.Join(f[1], own[name]))
				}
			}
		case "cgroup2":
			raw, _ := os.ReadFile(f[1] + "/cgroup.subtree_control")
			for _, name := range strings.Fields(string(raw)) {
				if name == "memory" || name == "pids" || name == "cpu" {
					c.v2 = c.offer(name, f[1]) || c.v2
				}
			}
		}
	}
	return c
}

func (c *cgroups) offer(controller, dir string) bool {
	if err := unix.Access(dir, unix.W_OK); err != nil {
		c.why = dir + ": " + err.Error()
		return false
	}
	if c.dirs[controller] == "" {
		c.dirs[controller] = dir
	}
	return true
}

func (c *cgroups) has(controller string) bool { return c.dirs[controller] != "" }

// make makes the cgroup of a sandbox. Its name tells whose it is.
func (c *cgroups) make(id string, l sandbox.Limits) (*group, error) {
	g := &group{}
	name := fmt.Sprintf("%s%d.%s", groupPrefix, os.Getpid(), id)
	seen := map[string]bool{}
	for _, controller := range []string{"memory", "pids", "cpu"} {
		parent, set := c.dirs[controller], c.settings(controller, l)
		if parent == "" || len(set) == 0 {
			continue
		}
		dir := filepath.Join(parent, name)
		if !seen[dir] {
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return g, groupError{err}
			}
			g.dirs = append(g.dirs, dir)
			seen[dir] = true
		}
		if err := write(dir, set); err != nil {
			return g, groupError{err}
		}
	}
	return g, nil
}

// A setting is the value of one file. It may be absent where optional.
type setting struct {
	file, value string
	optional    bool
}

// file returns where the first of the named files is, "" if there is none.
func (g *group) file(names ...string) string {
	if g == nil {
		return ""
	}
	for _, dir := range g.dirs {
		for _, name := range names {
			if path := filepath.Join(dir, name); unix.Access(path, unix.R_OK) == nil {
				return path
			}
		}
	}
	return ""
}

func (c *cgroups) settings(controller string, l sandbox.Limits) []setting {
	memory, pids := strconv.FormatInt(l.Memory, 10), strconv.Itoa(l.PIDs+confine.Reserve)
	const period = 100_000
	quota := strconv.Itoa(int(l.CPU * period))
	switch {
	case controller == "memory" && l.Memory > 0 && c.v2:
		return []setting{{"memory.max", memory, false}, {"memory.swap.max", "0", true}, {"memory.oom.group", "0", true}}
	case controller == "memory" && l.Memory > 0:
		return []setting{{"memory.limit_in_bytes", memory, false}, {"memory.memsw.limit_in_bytes", memory, true}}
	case controller == "pids" && l.PIDs > 0:
		return []setting{{"pids.max", pids, false}}
	case controller == "cpu" && l.CPU > 0 && c.v2:
		return []setting{{"cpu.max", quota + " " + strconv.Itoa(period), false}}
	case controller == "cpu" && l.CPU > 0:
		return []setting{{"cpu.cfs_period_us", strconv.Itoa(period), false}, {"cpu.cfs_quota_us", quota, false}}
	}
	return nil
}

func write(dir string, settings []setting) error {
	for _, s := range settings {
		err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0o644)
		if err != nil && !s.optional {
			return err
		}
	}
	return nil
}

// A groupError says that the cgroup cannot be used.
type groupError struct{ error }

func (e groupError) Unwrap() error { return e.error }

// start starts a command that begins its life in the cgroup. To move it there
// later would leave a moment without limits, and take until the kernel knows that
// none of its processors still looks at the old one: 10 ms and more.
func (g *group) start(cmd *exec.Cmd) error {
	if g == nil {
		return cmd.Start()
	}
	var old []string // of version 1
	for _, dir := range g.dirs {
		if _, err := os.Stat(dir + "/tasks"); err == nil {
			old = append(old, dir)
			continue
		}
		d, err := os.Open(dir)
		if err != nil {
			return groupError{err}
		}
		defer d.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(d.Fd())
	}
	if len(old) == 0 {
		return cmd.Start()
	}
	started := make(chan error, 1)
	go onThread(func() { started <- startFrom(old, cmd) })
	return <-started
}

// onThread does something on a thread that ends with the calling goroutine. It is
// not the first one, whose cgroup counts for the memory of all.
func onThread(do func()) {
	runtime.LockOSThread() // and never unlock
	if unix.Gettid() != unix.Getpid() {
		do()
		return
	}
	done := make(chan struct{})
	go func() { // takes another thread, since this one is held
		defer close(done)
		onThread(do)
	}()
	<-done
	runtime.UnlockOSThread()
}

// startFrom starts a command from cgroups of version 1, which a single thread can
// be in. The thread leaves them again.
func startFrom(dirs []string, cmd *exec.Cmd) error {
	for _, dir := range dirs {
		if err := enterThread(dir); err != nil {
			return groupError{fmt.Errorf("enter cgroup %s: %w", dir, err)}
		}
		defer func() { _ = enterThread(filepath.Dir(dir)) }() // else it ends there, soon
	}
	return cmd.Start()
}

// enterThread moves the calling thread into a cgroup of version 1. "0" is itself,
// which the kernel does without waiting for others.
func enterThread(dir string) error {
	f, err := os.OpenFile(dir+"/tasks", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("0")
	return err
}

// removeTimeout bounds how long the processes of a cgroup may take to end.
const removeTimeout = 10 * time.Second

// remove removes the cgroup, and ends what is still in it: a process is counted
// until it has been collected, for a moment after its namespace has ended.
func (g *group) remove() error {
	if g == nil {
		return nil
	}
	var errs []error
	deadline := time.Now().Add(removeTimeout)
	for _, d := range g.dirs {
		err := unix.Rmdir(d)
		for errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
			if err = empty(d, deadline); err == nil {
				err = unix.Rmdir(d)
			}
			if errors.Is(err, unix.EBUSY) { // all have ended, and the kernel is about to take note
				_, _ = unix.Poll(nil, 1)
			}
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", d, err))
		}
	}
	return errors.Join(errs...)
}

// empty kills what is in a cgroup and waits until it has ended.
func empty(dir string, deadline time.Time) error {
	events, err := os.Open(dir + "/cgroup.events")
	if err != nil {
		return emptyV1(dir, deadline)
	}
	defer events.Close()
	if err := os.WriteFile(dir+"/cgroup.kill", []byte("1"), 0); err != nil {
		return err
	}
	for {
		raw := make([]byte, 256)
		n, err := events.ReadAt(raw, 0)
		if err != nil && err != io.EOF {
			return err
		}
		if strings.Contains(string(raw[:n]), "populated 0") {
			return nil
		}
		if err := await(events.Fd(), unix.POLLPRI, deadline); err != nil {
			return err
		}
	}
}

// emptyV1 does the same in a hierarchy of version 1, which tells of no events.
func emptyV1(dir string, deadline time.Time) error {
	raw, err := os.ReadFile(dir + "/cgroup.procs")
	if err != nil {
		return err
	}
	for _, w := range strings.Fields(string(raw)) {
		pid, err := strconv.Atoi(w)
		if err != nil || pid <= 0 || pid == os.Getpid() { // a thread of it may be about to end
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		err = await(uintptr(fd), unix.POLLIN, deadline)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// await waits for an event of a descriptor.
func await(fd uintptr, event int16, deadline time.Time) error {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: event}}
		n, err := unix.Poll(p, max(1, int(time.Until(deadline).Milliseconds())))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n > 0:
			return nil
		case !time.Now().Before(deadline):
			return unix.EBUSY
		}
	}
}

// sweep removes the empty cgroups of workers that have died.
func (c *cgroups) sweep() {
	for _, parent := range c.dirs {
		old, _ := filepath.Glob(filepath.Join(parent, groupPrefix+"*"))
		for _, dir := range old {
			pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), groupPrefix), ".")
			if n, err := strconv.Atoi(pid); err == nil && n > 0 && unix.Kill(n, 0) == unix.ESRCH {
				unix.Rmdir(dir) // fails while a process is in it: the next sweep
			}
		}
	}
}
