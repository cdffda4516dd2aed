package runner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/internal/rpc"
)

// self is the program that runs, also where its path is not visible.
const self = "/proc/self/exe"

// A shim serves one exec after the other. Each costs it a thread, which stays in
// the exec's domain and so has to end with it. All threads that it will need are
// made at its start: beside a fork bomb there would be none to be had.
const (
	shimExecs   = 8
	shimThreads = 6 // besides
)

// A shimProcess is the runner's side of a shim.
type shimProcess struct {
	conn *net.UnixConn
	left int // execs that it can still serve
}

// startShim starts a shim, which then waits for its request.
func (x *execs) startShim() (*shimProcess, error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	done := make(chan struct{})
	x.starts <- func() {
		defer close(done)
		_, err = syscall.ForkExec(self, []string{"stepward-shim"}, &syscall.ProcAttr{
			Env:   []string{EnvMode + "=shim"},
			Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), theirs.Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
	}
	<-done
	if err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("start a shim: %w", err)
	}
	return &shimProcess{conn: ours, left: shimExecs}, nil
}

func socketpair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "shim"), os.NewFile(uintptr(fds[1]), "shim")
	defer ours.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c.(*net.UnixConn), theirs, nil
}

// dispatch sends a request to a shim that waits for one, or to a new one.
func (x *execs) dispatch(req *rpc.ShimRequest, files []*os.File) (*shimProcess, error) {
	select {
	case s := <-x.idle:
		if err := s.send(req, files); err == nil {
			return s, nil
		}
		s.close() // it died while nothing ran under it
	default:
	}
	s, err := x.startShim()
	if err != nil {
		return nil, err
	}
	if err := s.send(req, files); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// warm sees to it that a shim waits for the next exec. A shim's own start would
// be most of what an exec costs.
func (x *execs) warm() {
	if len(x.idle) > 0 {
		return
	}
	go func() {
		if s, err := x.startShim(); err == nil { // else the next exec tries again, and reports it
			x.release(s)
		}
	}()
}

// release takes back a shim under which nothing is left.
func (x *execs) release(s *shimProcess) {
	if s.left > 0 {
		select {
		case x.idle <- s:
			return
		default: // enough are waiting
		}
	}
	s.close()
}

func (s *shimProcess) send(req *rpc.ShimRequest, files []*os.File) error {
	raw, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	s.left--
	head := binary.BigEndian.AppendUint32(nil, uint32(len(raw)))
	if _, _, err := s.conn.WriteMsgUnix(head, unix.UnixRights(fds...), nil); err != nil {
		return fmt.Errorf("talk to the shim: %w", err)
	}
	runtime.KeepAlive(files)
	if _, err := s.conn.Write(raw); err != nil {
		return fmt.Errorf("talk to the shim: %w", err)
	}
	return nil
}

func (s *shimProcess) receive() (*rpc.ExecEvent, error) {
	ev := new(rpc.ExecEvent)
	return ev, readMessage(s.conn, ev)
}

// kill ends the exec of the last request. A request of no bytes says so.
func (s *shimProcess) kill() { _, _ = s.conn.Write(make([]byte, 4)) }

func (s *shimProcess) close() { _ = s.conn.Close() }

func readMessage(r io.Reader, m proto.Message) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	raw := make([]byte, min(binary.BigEndian.Uint32(head[:]), rpc.MaxMessage))
	if _, err := io.ReadFull(r, raw); err != nil {
		return err
	}
	return proto.Unmarshal(raw, m)
}

func writeMessage(w io.Writer, m proto.Message) error {
	raw, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw...))
	return err
}

// A job is one exec of a shim.
type job struct {
	req   *rpc.ShimRequest
	files []int // its descriptors, from 0 on
	kill  chan struct{}
}

// sweep has all processes of the job killed.
func (j *job) sweep() {
	select {
	case j.kill <- struct{}{}:
	default:
	}
}

// shim is the parent of execs, of one at a time: it starts the process in a
// domain of its own, adopts what that leaves behind, and reports the end when
// nothing is left.
func shim() error {
	catchAll := catchSignals()
	go func() {
		for range catchAll {
		}
	}()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	syscall.CloseOnExec(3)
	f := os.NewFile(3, "runner")
	nc, err := net.FileConn(f)
	if err != nil {
		return err
	}
	f.Close()
	keepThreads(shimThreads + shimExecs)
	limitChildren()
	if landlockABI() > 0 {
		_, _ = ruleset() // ready before it is needed, which is when an error is reported
	}
	conn := nc.(*net.UnixConn)
	jobs := make(chan *job)
	go receiveJobs(conn, jobs)
	for j := range jobs {
		if err := writeMessage(conn, j.run(conn)); err != nil {
			return err
		}
	}
	return nil
}

// run returns when no process of the job is left.
func (j *job) run(conn *net.UnixConn) *rpc.ExecEvent {
	pid, err := startChild(j.req, j.files)
	for _, fd := range j.files {
		unix.Close(fd)
	}
	if err != nil {
		var errno unix.Errno
		errors.As(err, &errno)
		return &rpc.ExecEvent{Event: &rpc.ExecEvent_End{End: &rpc.End{
			Code: -1, StartErrno: int32(errno), StartError: text(err.Error()),
		}}}
	}
	// If this fails the runner has gone, and receiveJobs sees it too.
	_ = writeMessage(conn, &rpc.ExecEvent{Event: &rpc.ExecEvent_Started{Started: &rpc.Started{}}})
	empty := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		select {
		case <-j.kill:
			killTree(empty)
		case <-empty:
		}
	})
	end := reapAll(pid, j.sweep)
	close(empty)
	killer.Wait() // or it would kill the next job's
	return &rpc.ExecEvent{Event: &rpc.ExecEvent_End{End: end}}
}

// receiveJobs takes the runner's requests. A request to kill is for the job
// before it, or comes too late. The end of the connection means: kill, and end.
func receiveJobs(conn *net.UnixConn, jobs chan<- *job) {
	defer close(jobs)
	last := &job{}
	defer func() { last.sweep() }()
	for {
		req, files, err := receiveRequest(conn)
		switch {
		case err != nil:
			return
		case req == nil:
			last.sweep()
		default:
			last = &job{req: req, files: files, kill: make(chan struct{}, 1)}
			jobs <- last
		}
	}
}

// receiveRequest returns no request when the runner wants the last one killed.
func receiveRequest(conn *net.UnixConn) (*rpc.ShimRequest, []int, error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(8*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(head[:], oob)
	if err != nil || n == 0 {
		return nil, nil, io.EOF
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return nil, nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 {
		return nil, nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return nil, nil, fmt.Errorf("no descriptors came with the request: %w", err)
	}
	files, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return nil, nil, err
	}
	for _, fd := range files {
		syscall.CloseOnExec(fd)
	}
	raw := make([]byte, min(size, rpc.MaxMessage))
	if _, err := io.ReadFull(conn, raw); err != nil {
		return nil, nil, err
	}
	req := new(rpc.ShimRequest)
	return req, files, proto.Unmarshal(raw, req)
}

// startChild starts the process from a thread that has entered the domain. The
// shim's other threads, its first among them, stay outside, so that the process
// can neither signal nor read the shim.
func startChild(req *rpc.ShimRequest, files []int) (pid int, err error) {
	dir := req.Dir
	if dir == "" {
		dir = Workspace
	}
	if st, err := os.Stat(dir); err != nil {
		return 0, fmt.Errorf("working directory: %w", err)
	} else if !st.IsDir() {
		return 0, fmt.Errorf("working directory %s: %w", dir, unix.ENOTDIR)
	}
	name, err := lookPath(req.Name, dir, req.Env)
	if err != nil {
		return 0, err
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: lastWins(req.Env), Sys: &syscall.SysProcAttr{Setsid: true}}
	for _, fd := range files {
		attr.Files = append(attr.Files, uintptr(fd))
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
		if req.Landlock {
			if err = enterDomain(); err != nil {
				return
			}
		}
		pid, err = syscall.ForkExec(name, args, attr)
		if err != nil {
			err = fmt.Errorf("%s: %w", req.Name, err)
		}
	}
	go start()
	<-done
	return pid, err
}

// lookPath finds a program as execvp does, by the PATH of the command.
func lookPath(name, dir string, env []string) (string, error) {
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
	for _, p := range filepath.SplitList(list) {
		if p == "" {
			continue
		}
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		p = filepath.Join(p, name)
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
// which sweep is told to kill. No child left is the proof that the tree is gone:
// whoever loses its parent becomes a child of this process.
func reapAll(pid int, sweep func()) *rpc.End {
	end := &rpc.End{Code: -1, Lost: true}
	options := 0
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, options, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return end
		case got == 0: // something is left
			sweep()
			options = 0
			continue
		case got != pid:
			continue
		case ws.Exited():
			end = &rpc.End{Code: int32(ws.ExitStatus())}
		case ws.Signaled():
			end = &rpc.End{Code: -1, Signal: unix.SignalName(ws.Signal())}
		}
		options = unix.WNOHANG
	}
}

// killTree stops, then kills, all descendants, until empty is closed.
func killTree(empty <-chan struct{}) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		var stopped []int
		for range 100 { // a fork bomb makes new ones while it is being stopped
			fresh := false
			for _, pid := range descendants(os.Getpid()) {
				if !slices.Contains(stopped, pid) {
					unix.Kill(pid, unix.SIGSTOP)
					stopped = append(stopped, pid)
					fresh = true
				}
			}
			if !fresh {
				break
			}
		}
		for _, pid := range stopped {
			unix.Kill(pid, unix.SIGKILL)
		}
		pause.Reset(time.Millisecond)
		select {
		case <-empty:
			return
		case <-pause.C:
		}
	}
}

// descendants lists the processes below pid.
func descendants(pid int) []int {
	var out []int
	queue := []int{pid}
	for len(queue) > 0 {
		children, err := childrenOf(queue[0])
		if err != nil {
			return byParent(pid)
		}
		queue = append(queue[1:], children...)
		out = append(out, children...)
	}
	return out
}

func childrenOf(pid int) ([]int, error) {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	dir, err := os.ReadDir(tasks)
	if err != nil {
		return nil, nil //nolint:nilerr // it has ended
	}
	var out []int
	for _, t := range dir {
		raw, err := os.ReadFile(tasks + "/" + t.Name() + "/children")
		if errors.Is(err, os.ErrNotExist) {
			if _, serr := os.Stat(tasks + "/" + t.Name()); serr == nil {
				return nil, err // this kernel has no such file
			}
		}
		for _, w := range strings.Fields(string(raw)) {
			out = append(out, atoi(w))
		}
	}
	return out, nil
}

// byParent lists the processes below pid by the parent that each names.
func byParent(pid int) []int {
	parent := map[int]int{}
	dir, _ := os.ReadDir("/proc")
	for _, d := range dir {
		p := atoi(d.Name())
		if p == 0 {
			continue
		}
		raw, _ := os.ReadFile("/proc/" + d.Name() + "/stat")
		if i := strings.LastIndexByte(string(raw), ')'); i > 0 {
			if w := strings.Fields(string(raw[i+1:])); len(w) > 1 {
				parent[p] = atoi(w[1])
			}
		}
	}
	var out []int
	for p := range parent {
		for up, hops := p, 0; up != 0 && hops < 1000; up, hops = parent[up], hops+1 {
			if parent[up] == pid {
				out = append(out, p)
				break
			}
		}
	}
	return out
}

// atoi reads a process id, 0 if s is none.
func atoi(s string) int {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' || n > 1<<30 {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// reap collects what ended under the runner: its shims, and what a shim that
// died has left.
func (x *execs) reap(signals <-chan os.Signal) {
	for s := range signals {
		if s != unix.SIGCHLD {
			continue
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
		}
	}
}

// killAll is the last resort: everything in the sandbox but the runner.
func (x *execs) killAll() {
	for len(x.idle) > 0 {
		select {
		case s := <-x.idle:
			s.close()
		default:
		}
	}
	if os.Getpid() == 1 {
		unix.Kill(-1, unix.SIGKILL)
		return
	}
	for _, pid := range descendants(os.Getpid()) {
		unix.Kill(pid, unix.SIGKILL)
	}
}
