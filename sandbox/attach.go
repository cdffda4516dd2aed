package sandbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
)

// Usage is what a command has used.
type Usage struct {
	CPU    time.Duration // user and system time of all its processes
	Memory int64         // bytes that the largest of its processes held; never below the few MiB of the one that starts them
	Wall   time.Duration

	Stdin     int64 // bytes that it was given
	Stdout    int64 // bytes that it wrote, and how far a reader got: see [Sandbox.Attach]
	Stderr    int64
	Truncated int64 // bytes of the output that no reader got
}

// Usage returns what the command used. It is complete when [Cmd.Wait] has
// returned; after [Cmd.Detach] it has the bytes alone. What a process did whose
// parent refused to wait for it is not in it.
func (c *Cmd) Usage() Usage {
	if c.exec == nil {
		return Usage{}
	}
	<-c.exec.ended
	return c.exec.usage
}

// Signal sends a signal, as "SIGINT", to the command's process group: that of its
// first process, which a shell's foreground commands are in. It does nothing when
// that process has ended.
func (c *Cmd) Signal(ctx context.Context, signal string) error {
	return c.signal(ctx, &rpc.SignalRequest{Signal: signal})
}

// Resize tells a command that has a terminal of its new size.
func (c *Cmd) Resize(ctx context.Context, t Terminal) error {
	return c.signal(ctx, &rpc.SignalRequest{Terminal: t.wire()})
}

func (c *Cmd) signal(ctx context.Context, req *rpc.SignalRequest) error {
	if c.exec == nil {
		return errors.New("sandbox: command was not started")
	}
	req.Id = c.exec.req.Id
	client, err := c.sb.control.get(ctx)
	if err == nil {
		_, err = client.Signal(ctx, connect.NewRequest(req))
	}
	if err != nil {
		return fmt.Errorf("sandbox: %s: %w", c.exec.name, fileError(lost(ctx, err)))
	}
	return nil
}

// Detach leaves the command running and stops following it. When it returns
// nothing more is written to Stdout and Stderr, and [Cmd.Usage] says up to which
// byte it was. The end of the context given to Start ends the command no more;
// its Timeout, and the end of the sandbox, do. Wait returns [ErrDetached].
//
// A Read of Stdin that has not returned yet, or whose bytes are under way, is for who
// follows the command next through this Sandbox with the same Stdin; with another one
// they are lost.
//
// While nobody follows the command it is held up once it has written 256 KiB,
// unless MaxOutput is set.
func (c *Cmd) Detach() error {
	if c.exec == nil {
		return errors.New("sandbox: command was not started")
	}
	return c.exec.detach()
}

// ErrDetached is what [Cmd.Wait] returns after [Cmd.Detach]. As the cause of the end
// of a command's context, or of a guest step's, it does what Detach does.
var ErrDetached = errors.New("sandbox: detached")

// Attach returns the command whose Cmd had this ID, whichever process of whichever
// worker started it, and whether it still runs or not. Set Stdin, Stdout and
// Stderr, then call Start: output is written from the given bytes on, and what
// Stdin reads is added to the command's input. Output that is gone is counted, as
// [Usage].Truncated. The last 1 MiB that a reader got of each stream is there, or
// all of it with MaxOutput; of commands that have ended, that of the last few.
//
// A command that the sandbox does not know is a [CommandError] that is
// [io/fs.ErrNotExist]. To start a command unless it was started already, use its
// ID with [Sandbox.Command].
func (s *Sandbox) Attach(id string, stdout, stderr int64) *Cmd {
	return &Cmd{ID: id, sb: s, attach: &rpc.ExecRequest{Attach: true, StdoutOffset: stdout, StderrOffset: stderr}}
}

// Terminal is the size of a terminal.
type Terminal struct{ Rows, Cols int }

func (t *Terminal) wire() *rpc.Terminal {
	if t == nil {
		return nil
	}
	side := func(n int) uint32 { return uint32(min(max(n, 0), 1<<16-1)) }
	return &rpc.Terminal{Rows: side(t.Rows), Cols: side(t.Cols)}
}

// maxID bounds the name of a command.
const maxID = 128

func (c *Cmd) checkID() error {
	if a := c.attach; a != nil && c.ID == "" {
		return errors.New("sandbox: Attach without the id of a command")
	} else if a != nil && (a.StdoutOffset < 0 || a.StderrOffset < 0) {
		return fmt.Errorf("sandbox: Attach to %.150q from a negative byte: %d, %d", c.ID, a.StdoutOffset, a.StderrOffset)
	}
	if len(c.ID) > maxID || strings.ContainsFunc(c.ID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("sandbox: command id %.150q is not up to %d printable ASCII characters", c.ID, maxID)
	}
	return nil
}
