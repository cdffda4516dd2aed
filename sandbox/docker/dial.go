package docker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/sandbox"
)

// Dial connects to the tool runner of a sandbox, whichever process made it:
// through the socket in a shared directory where that works, else through a
// process in the container that does nothing but copy.
func (b *Backend) Dial(ctx context.Context, id string) (net.Conn, error) {
	api, _, err := b.connect(ctx)
	if err != nil {
		return nil, err
	}
	c, err := inspect(ctx, api, id)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("%w: no sandbox %s on backend docker", sandbox.ErrLost, id)
	} else if err != nil {
		return nil, fmt.Errorf("sandbox: look for %s: %w", id, err)
	}
	if !b.noBind && c.Config != nil {
		if path := c.Config.Labels[labelSocket]; path != "" {
			if c, err := dialSocket(ctx, path); err == nil {
				return c, nil
			}
		}
	}
	return b.dialExec(ctx, api, c.ID, id)
}

// dialExec reaches the runner through docker exec.
func (b *Backend) dialExec(ctx context.Context, api *client.Client, name, id string) (net.Conn, error) {
	made, err := api.ExecCreate(ctx, name, client.ExecCreateOptions{
		Cmd: []string{ProgramPath}, Env: []string{runner.EnvMode + "=dial", runner.FewThreads},
		AttachStdin: true, AttachStdout: true, AttachStderr: true,
	})
	if errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
		return nil, fmt.Errorf("%w: %s has ended: %w", sandbox.ErrLost, id, err)
	} else if err != nil {
		return nil, fmt.Errorf("sandbox: dial %s: %w", id, err)
	}
	res, err := api.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return nil, fmt.Errorf("sandbox: dial %s: %w", id, err)
	}
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	c := &execConn{Conn: res.Conn, r: res.Reader, unwatch: unwatch}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := c.connected(); err != nil {
		_ = c.Close() // the first error counts
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: dial %s: %w", sandbox.ErrLost, id, err)
	}
	go c.watch(watching, api, name)
	return c, nil
}

// An execConn is the standard input and output of a process in a container. The
// engine sends the output in frames, of which a Read may get a part.
type execConn struct {
	net.Conn
	r      io.Reader
	head   [8]byte
	have   int    // bytes of head that were read
	left   uint32 // bytes of the frame that were not
	stderr []byte

	unwatch func()
}

// watch ends the connection with its container. When that goes at once, as gVisor does at
// the ceiling of its memory, the engine leaves the streams of its processes open.
func (c *execConn) watch(ctx context.Context, api *client.Client, id string) {
	wait := api.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case <-wait.Result:
	case err := <-wait.Error:
		if !errdefs.IsNotFound(err) { // nor does anybody wait when the connection is closed
			return
		}
	}
	select {
	case <-time.After(lastWords):
	case <-ctx.Done():
	}
	_ = c.Close() // nobody hears of it
}

// lastWords is how long what was sent before a container ended may be on its way.
const lastWords = time.Second

func (c *execConn) Close() error {
	c.unwatch()
	return c.Conn.Close()
}

// What is kept of a dial process's errors.
const maxStderr = 4 << 10

// connected waits for the process to say that it reached the runner.
func (c *execConn) connected() error {
	for !bytes.Contains(c.stderr, []byte(runner.Connected)) {
		if err := c.header(); err != nil {
			return c.explain(err)
		}
		if c.head[0] != byte(stdcopy.Stderr) {
			return errors.New("the program in the container is no tool runner")
		}
		if err := c.errors(); err != nil {
			return c.explain(err)
		}
	}
	c.stderr = nil
	return nil
}

// Read reads what the runner sent.
func (c *execConn) Read(p []byte) (int, error) {
	for {
		if err := c.header(); err != nil {
			return 0, c.explain(err)
		}
		if c.head[0] == byte(stdcopy.Stdout) {
			break
		}
		if err := c.errors(); err != nil {
			return 0, c.explain(err)
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.r.Read(p[:min(len(p), int(c.left))])
	c.left -= uint32(n)
	return n, err
}

// header sees to it that a frame with bytes left is at hand. It can be called
// again after a deadline passed.
func (c *execConn) header() error {
	for c.left == 0 {
		if c.have == len(c.head) {
			c.have = 0
		}
		for c.have < len(c.head) {
			n, err := c.r.Read(c.head[c.have:])
			c.have += n
			if err != nil && c.have < len(c.head) {
				return err
			}
		}
		c.left = binary.BigEndian.Uint32(c.head[4:])
	}
	return nil
}

// errors takes what it can of a frame of the standard error.
func (c *execConn) errors() error {
	buf := make([]byte, min(c.left, maxStderr))
	n, err := c.r.Read(buf)
	c.left -= uint32(n)
	if len(c.stderr) < maxStderr {
		c.stderr = append(c.stderr, buf[:n]...)
	}
	return err
}

func (c *execConn) explain(err error) error {
	if errors.Is(err, io.EOF) && len(c.stderr) > 0 {
		return fmt.Errorf("the process in the container ended: %s: %w", strings.TrimSpace(string(c.stderr)), err)
	}
	return err
}

// ready waits until the runner of a sandbox that was just started answers.
func (b *Backend) ready(ctx context.Context, api *client.Client, e *engine, dir socketDir, id string) error {
	if dir != "" {
		err := waitSocket(ctx, dir)
		if err == nil {
			return dir.close()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// The directory is shared, but sockets in it are not: a virtual
		// machine between us and the engine.
		b.forgetBind()
	}
	c, err := b.dialExec(ctx, api, containerName(id), id)
	if err != nil {
		return err
	}
	return c.Close()
}

// socketTimeout is when a socket that does not answer is given up on.
const socketTimeout = 10 * time.Second

func waitSocket(ctx context.Context, dir socketDir) error {
	ctx, cancel := context.WithTimeout(ctx, socketTimeout)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := dialSocket(ctx, dir.outside())
		if err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// A listener collects what a tool runner says when it cannot begin. Nothing
// listens later on: there is no log.
type listener struct {
	conn client.HijackedResponse
	done chan struct{}
	buf  bytes.Buffer
}

func listen(ctx context.Context, api *client.Client, container string, stdin bool) *listener {
	l := &listener{done: make(chan struct{})}
	res, err := api.ContainerAttach(ctx, container, client.ContainerAttachOptions{Stream: true, Stderr: true, Stdin: stdin})
	if err != nil {
		close(l.done)
		return l
	}
	l.conn = res.HijackedResponse
	go func() {
		defer close(l.done)
		_, _ = stdcopy.StdCopy(io.Discard, &l.buf, io.LimitReader(l.conn.Reader, maxStderr))
	}()
	return l
}

// tell writes the standard input of the tool runner, and ends it.
func (l *listener) tell(b []byte) error {
	if l.conn.Conn == nil {
		return errors.New("the engine does not attach")
	}
	if _, err := l.conn.Conn.Write(b); err != nil {
		return err
	}
	return l.conn.CloseWrite()
}

func (l *listener) close() {
	if l.conn.Conn != nil {
		l.conn.Close()
	}
	<-l.done
}

func (l *listener) text() string {
	if l.conn.Conn != nil {
		_ = l.conn.Conn.SetReadDeadline(time.Now().Add(time.Second))
	}
	<-l.done
	if s := strings.TrimSpace(l.buf.String()); s != "" {
		return s
	}
	return "nothing"
}
