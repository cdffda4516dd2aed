//go:build unix

package brokerlink

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/rpc"
)

// childFD is the child's end of the connection.
const childFD = 3

// What a child writes to its connection: that it serves, or that it ends as its database is away.
const (
	serving = "serving\n"
	waiting = "waiting\n"
)

// child is a broker that this process has started.
type child struct {
	conn    net.Conn
	process atomic.Int64
	ended   chan struct{} // its connection has
	gone    chan struct{} // it has
	how     string        // it ended, once it has gone
	end     func()
	kill    func()
}

// startChild starts this program as a broker, and returns when it serves. What it says instead is in
// the error.
func startChild(ctx context.Context, setup Setup, log func(string)) (*child, error) {
	if !ready.Load() {
		return nil, errors.New("this program cannot be started as a broker: bootstrap.Init is not the first call in its main, and worker.Config.Broker names no other")
	}
	if LeftRoot() {
		return launch(ctx, setup, log)
	}
	ours, theirs, err := pair()
	if err != nil {
		return nil, fmt.Errorf("connect with a broker: %w", err)
	}
	defer theirs.Close()
	input, err := json.Marshal(setup)
	if err != nil {
		ours.Close()
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the broker: %w", err)
	}
	c := &child{ended: make(chan struct{}), gone: make(chan struct{})}
	c.end = sync.OnceFunc(func() { close(c.ended) })
	if _, err := os.Stat("/proc/self/exe"); err == nil {
		self = "/proc/self/exe" // also when a deploy has put another program in its place
	}
	cmd := exec.Command(self)
	cmd.WaitDelay = 2 * time.Second
	cmd.Env = append(os.Environ(), EnvBroker+"=1")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdin = strings.NewReader(string(input))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C is for the worker, which needs it until it has drained
	said := &tail{}
	stderr := said.lines(setup, log)
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the broker: %w", err)
	}
	theirs.Close()
	c.process.Store(int64(cmd.Process.Pid))
	c.kill = func() { _ = cmd.Process.Kill() }
	go func() {
		err := cmd.Wait()
		stderr.flush()
		if err != nil {
			log(err.Error())
		}
		if state := cmd.ProcessState; state != nil {
			c.how = state.String()
		}
		close(c.gone)
	}()
	if err := c.awaits(ctx, ours); err != nil {
		ours.Close()
		c.stop()
		if errors.Is(err, errEnded) {
			err = fmt.Errorf("%w, with %s", err, c.how)
		}
		return nil, fmt.Errorf("%w%s", err, said.text())
	}
	c.conn = rpc.Watch(ours, c.end)
	return c, nil
}

// errEnded reports a child that has ended, and did not say that it waits.
var errEnded = errors.New("it ended before it served")

// awaits waits for the child to serve.
func (c *child) awaits(ctx context.Context, conn net.Conn) error {
	deadline := time.Now().Add(startTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })()
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	got := make([]byte, len(serving))
	if _, err := io.ReadFull(conn, got); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("it does not serve after %v: %w", startTimeout, os.ErrDeadlineExceeded)
		}
		return errEnded
	}
	if string(got) == waiting {
		return errAway
	}
	return conn.SetReadDeadline(time.Time{})
}

func (c *child) over() bool {
	select {
	case <-c.ended:
		return true
	case <-c.gone:
		return true
	default:
		return false
	}
}

func (c *child) pid() int { return int(c.process.Load()) }

// close ends the child: what it writes is on record, or will be done again.
func (c *child) close() {
	c.conn.Close()
	c.stop()
}

func (c *child) stop() {
	timer := time.AfterFunc(5*time.Second, c.kill)
	defer timer.Stop()
	<-c.gone
}

// pair makes a connection that only who has an end of it can use.
func pair() (ours net.Conn, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "broker")
	defer f.Close()
	theirs = os.NewFile(uintptr(fds[1]), "worker")
	if ours, err = net.FileConn(f); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// Inherited returns the connection that a child serves, and Serving tells that it does.
func Inherited() (net.Conn, error) {
	unix.CloseOnExec(childFD)
	f := os.NewFile(childFD, "worker")
	defer f.Close()
	return net.FileConn(f)
}

// Serving tells the worker that its calls will be answered.
func Serving(c net.Conn) error {
	_, err := io.WriteString(c, serving)
	return err
}

// Waiting tells the worker that the next child may serve: what this one lacks is its database.
func Waiting(c net.Conn) error {
	_, err := io.WriteString(c, waiting)
	return err
}

// tail keeps the beginning of what a child that does not start says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// lines returns what takes what the child writes, for the tail and for a log.
func (t *tail) lines(setup Setup, log func(string)) *lineWriter {
	return &lineWriter{to: newSaying(setup, func(line string) {
		t.add(line + "\n")
		log(line)
	}).line}
}

func (t *tail) add(p string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[:min(len(p), 2048-len(t.b))]...)
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := strings.TrimSpace(string(t.b)); s != "" {
		return ": " + s
	}
	return ""
}

// lineWriter passes each line on.
type lineWriter struct {
	to func(string)
	b  []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	for {
		n, line, _ := bufio.ScanLines(w.b, false)
		if n == 0 {
			break
		}
		w.to(string(line))
		w.b = w.b[n:]
	}
	if len(w.b) > 64<<10 {
		w.flush()
	}
	return len(p), nil
}

func (w *lineWriter) flush() {
	if len(w.b) > 0 {
		w.to(string(w.b))
		w.b = nil
	}
}
