package shim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/fdpass"
	"github.com/stepward/stepward/internal/layers"
)

// init serves where the environment says so, and ends the process: what this
// program does otherwise is initialized after it.
func init() {
	is := os.Getenv(confine.EnvMode)
	if is != mode && is != modeAhead {
		return
	}
	if err := serve(is == modeAhead); err != nil {
		os.Exit(confine.ExitSetup) // the runner sees the end, and its reason is for nobody: stderr is /dev/null
	}
	os.Exit(0)
}

// niceness is the nice value of commands, so that the shim and the tool runner, whose own
// is the worker's or the container's, do not wait for a processor until each process of a
// fork bomb has had its turn.
const niceness = 10

// A job is one request of a shim.
type job struct {
	req   *Request
	files []int // its descriptors, from 0 on
	kill  chan struct{}

	crowd crowd

	mu  sync.Mutex
	pid int // of its first process, while that runs
}

func (j *job) runs(pid int) {
	j.mu.Lock()
	j.pid = pid
	j.mu.Unlock()
}

func (j *job) running() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.pid != 0
}

// signal does nothing once the first process has been collected: its id may be
// another's then.
func (j *job) signal(sig int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pid != 0 {
		_ = unix.Kill(-j.pid, unix.Signal(sig))
	}
}

// sweep has all processes of the job killed.
func (j *job) sweep() {
	select {
	case j.kill <- struct{}{}:
	default:
	}
}

// end kills all processes of the job, until empty is closed. Those that have stayed in the
// group of the first, as those of most fork bombs do, it has not to look for: the kernel
// starts none while it tells them.
func (j *job) end(empty <-chan struct{}) {
	if j.running() {
		j.crowd.look()
	}
	j.crowd.end()
	j.signal(int(unix.SIGKILL))
	killTree(empty)
}

// serve is the life of a shim.
func serve(ahead bool) error {
	if err := confine.Harden(); err != nil {
		return err
	}
	catchAll := confine.CatchSignals()
	go func() {
		for range catchAll {
		}
	}()
	if err := adopt(ahead); err != nil {
		return err
	}
	conn, err := fdpass.Open(3)
	if err != nil {
		return err
	}
	confine.KeepThreads(threads + commands)
	most := confine.LimitChildren()
	if ahead {
		if err := awaitEntry(conn); err != nil {
			return err
		}
	}
	if confine.Landlock() > 0 {
		_, _ = confine.Ruleset() // ready before it is needed, which is when an error is reported
	}
	if err := write(conn, Event{Ready: true}); err != nil {
		return err
	}
	jobs := make(chan *job)
	go receiveJobs(conn, jobs)
	for j := range jobs {
		j.crowd.most = most
		if err := write(conn, j.run(conn)); err != nil {
			return err
		}
	}
	return nil
}

// adopt sees to it that what loses its parent becomes a child of this process, and that
// it is filtered, which its parent has seen to if that could.
func adopt(ahead bool) error {
	first := os.Getpid() == 1 // of a namespace
	if !first && !confine.Adopts() {
		return errors.New("this kernel has orphans adopted by the first process only")
	}
	if first || ahead {
		return confine.FilterSystemCalls(layers.Parse(os.Getenv(confine.EnvWithout)))
	}
	return nil
}

// awaitEntry returns when the sandbox is there, with this process in it.
func awaitEntry(conn *fdpass.Conn) error {
	want := make([]byte, rootSize)
	if _, err := io.ReadFull(conn, want); err != nil {
		return err
	}
	at, err := root()
	if err == nil && !bytes.Equal(at, want) {
		err = errors.New("it was left behind")
	}
	if err != nil {
		return err
	}
	if err := unix.Chdir(confine.Workspace); err != nil { // directories of commands may be named from there
		return err
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	for fd := 0; fd < 3 && err == nil; fd++ { // what it has is the host's
		err = unix.Dup3(null, fd, 0)
	}
	return errors.Join(err, unix.Close(null))
}

// rootSize is the size of what root returns.
const rootSize = 16

// root identifies the root directory of this process.
func root() ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		return nil, err
	}
	dev := uint64(st.Dev) //nolint:unconvert // uint32 on MIPS
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, dev), st.Ino), nil
}

// run returns when no process of the job is left.
func (j *job) run(conn *fdpass.Conn) Event {
	pid, listener, err := startChild(j.req, j.files)
	for _, fd := range j.files {
		unix.Close(fd)
	}
	if err != nil {
		var errno unix.Errno
		errors.As(err, &errno)
		return Event{Code: -1, StartErrno: int(errno), StartError: err.Error()}
	}
	j.runs(pid)
	// If this fails the runner has gone, and receiveJobs sees it too.
	if raw, err := encode(Event{Started: true}); err == nil {
		_ = conn.Send(raw, listener...)
	}
	for _, f := range listener {
		f.Close()
	}
	empty := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		select {
		case <-j.kill:
			j.end(empty)
		case <-empty:
		}
	})
	end := j.reapAll(pid)
	close(empty)
	killer.Wait() // or it would kill the next job's
	return end
}

// receiveJobs takes the runner's requests. A request to kill is for the job
// before it, or comes too late. The end of the connection means: kill, and end.
func receiveJobs(conn *fdpass.Conn, jobs chan<- *job) {
	defer close(jobs)
	last := new(job)
	defer func() { last.sweep() }()
	for {
		req, files, err := receiveRequest(conn)
		switch {
		case err != nil:
			return
		case req == nil:
			last.sweep()
		case req.Signal != 0:
			last.signal(req.Signal)
		default:
			last = &job{req: req, files: files, kill: make(chan struct{}, 1)}
			jobs <- last
		}
	}
}

// receiveRequest returns no request when the runner wants the last one killed.
func receiveRequest(conn *fdpass.Conn) (*Request, []int, error) {
	var head [4]byte
	n, files, err := conn.Receive(head[:])
	if err != nil {
		return nil, nil, err
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return nil, nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 {
		return nil, nil, nil
	}
	req := new(Request)
	if err := readBody(conn, size, req); err != nil {
		return nil, nil, err
	}
	for i := range req.Secrets {
		s := &req.Secrets[i]
		if s.Size < 0 || s.Size > maxMessage {
			return nil, nil, fmt.Errorf("a secret of %d bytes", s.Size)
		}
		s.value = make([]byte, s.Size)
		if _, err := io.ReadFull(conn, s.value); err != nil {
			return nil, nil, err
		}
	}
	return req, files, nil
}

// startChild starts the process from a thread that has entered the domain. The
// shim's other threads, its first among them, stay outside, so that the process
// can neither signal nor read the shim. The listener, if one was asked for, is one
// file.
func startChild(req *Request, files []int) (pid int, listener []*os.File, err error) {
	dir := req.Dir
	if dir == "" {
		dir = confine.Workspace
	}
	if st, err := os.Stat(dir); err != nil {
		return 0, nil, fmt.Errorf("working directory: %w", err)
	} else if !st.IsDir() {
		return 0, nil, fmt.Errorf("working directory %s: %w", dir, unix.ENOTDIR)
	}
	name := req.Path
	if name == "" {
		if name, err = LookPath(req.Name, dir, req.Env); err != nil {
			return 0, nil, err
		}
	}
	secrets, err := req.secrets(len(files))
	for _, f := range secrets {
		defer f.Close()
	}
	if err != nil {
		return 0, nil, err
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: lastWins(req.Env), Sys: &syscall.SysProcAttr{Setsid: true, Setctty: req.Terminal}}
	for _, fd := range files {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	for _, f := range secrets {
		attr.Files = append(attr.Files, f.Fd())
	}
	args := append([]string{req.Name}, req.Args...)
	done := make(chan struct{})
	var start func()
	start = func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its goroutine
		if unix.Gettid() == unix.Getpid() {
			go start() // takes another thread, since this one is held
			<-done
			return
		}
		defer close(done)
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceness) // fails where it is more already
		if req.Landlock {
			if err = confine.EnterDomain(); err != nil {
				return
			}
		}
		if req.Hold {
			var fd int
			if fd, err = confine.HoldConnects(); err != nil {
				return
			}
			listener = []*os.File{os.NewFile(uintptr(fd), "listener")}
		}
		pid, err = syscall.ForkExec(name, args, attr)
		if err != nil {
			err = fmt.Errorf("%s: %w", req.Name, err)
			for _, f := range listener {
				f.Close()
			}
		}
	}
	go start()
	<-done
	return pid, listener, err
}

// LookPath finds a program as execvp does, by the PATH of the command.
func LookPath(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var list string
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			list = v
		}
	}
	result := fmt.Errorf("%s: %w in PATH %s", name, unix.ENOENT, list)
	for _, p := range strings.Split(list, ":") {
		if p == "" {
			continue
		}
		if !path.IsAbs(p) {
			p = path.Join(dir, p)
		}
		p = path.Join(p, name)
		st, err := os.Stat(p)
		if err != nil || st.IsDir() {
			continue
		}
		if err := unix.Access(p, unix.X_OK); err == nil {
			return p, nil
		}
		result = fmt.Errorf("%s: %w", p, unix.EACCES)
	}
	return "", result
}

// lastWins keeps the last value of each variable.
func lastWins(env []string) []string {
	at := map[string]int{}
	var out []string
	for _, kv := range env {
		k, _, _ := strings.Cut(kv, "=")
		if i, ok := at[k]; ok {
			out[i] = kv
			continue
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	return out
}

// reapAll waits for the process and, when it has ended, for what it left behind,
// which is killed. No child left is the proof that the tree is gone:
// whoever loses its parent becomes a child of this process.
func (j *job) reapAll(pid int) Event {
	end := Event{Code: -1, Lost: true}
	options := 0
	for {
		if j.crowd.most > 0 && end.Lost && awaitEnd(pid) {
			j.crowd.look()
		}
		var ws unix.WaitStatus
		var used unix.Rusage
		got, err := unix.Wait4(-1, &ws, options, &used)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			met, nearly := j.crowd.end()
			end.Crowded, end.Nearly = met && end.Code != 0, nearly && end.Code != 0
			return end
		case got == 0: // something is left
			j.sweep()
			options = 0
			continue
		}
		// Of a process and of those that it waited for.
		end.CPU += used.Utime.Nano() + used.Stime.Nano()
		end.MaxMemory = max(end.MaxMemory, int64(used.Maxrss)<<10) //nolint:unconvert // of 32 bits on some
		if got != pid {
			continue
		}
		j.runs(0)
		end.Code, end.Lost = ws.ExitStatus(), false
		if ws.Signaled() {
			end.Signal = unix.SignalName(ws.Signal())
		}
		options = unix.WNOHANG
	}
}
