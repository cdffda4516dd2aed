package sandbox

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
)

// A printer is a tool runner of a command that prints two lines, and then either ends or
// waits to be killed.
type printer struct {
	forged
	stream rpc.Output_Stream
	ends   bool
	killed chan struct{}
}

func (p printer) Exec(ctx context.Context, _ *connect.Request[rpc.ExecRequest], s *connect.ServerStream[rpc.ExecEvent]) error {
	output := func(offset int64, data string) *rpc.ExecEvent {
		return &rpc.ExecEvent{Event: &rpc.ExecEvent_Output{Output: &rpc.Output{Stream: p.stream, Offset: offset, Data: []byte(data)}}}
	}
	end := &rpc.End{}
	for _, ev := range []*rpc.ExecEvent{{Event: &rpc.ExecEvent_Started{Started: &rpc.Started{}}}, output(0, "one\n"), output(4, "two\n")} {
		if err := s.Send(ev); err != nil {
			return err
		}
	}
	if !p.ends {
		select {
		case <-p.killed:
			end.Code, end.Signal, end.Killed = -1, "SIGKILL", true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Send(&rpc.ExecEvent{Event: &rpc.ExecEvent_End{End: end}})
}

func (p printer) Kill(context.Context, *connect.Request[rpc.KillRequest]) (*connect.Response[rpc.KillResponse], error) {
	close(p.killed)
	return connect.NewResponse(&rpc.KillResponse{Found: true}), nil
}

// A stuckWriter takes nothing before it is let go.
type stuckWriter struct {
	began chan struct{}
	letGo chan struct{}
	took  []string
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	w.began <- struct{}{}
	<-w.letGo
	w.took = append(w.took, string(p))
	return len(p), nil
}

// A Write that never returns keeps nobody longer than for a while after the end of the
// context, or a Detach. It alone is left behind, and nothing is written after it.
func TestBlockedWriter(t *testing.T) {
	gone := errors.New("nobody wants it")
	for name, c := range map[string]struct {
		ends  bool
		leave func(c *Cmd, cancel context.CancelCauseFunc) error
		want  error
		exit  bool
	}{
		"killed":                {false, func(_ *Cmd, cancel context.CancelCauseFunc) error { cancel(gone); return nil }, gone, true},
		"over":                  {true, func(_ *Cmd, cancel context.CancelCauseFunc) error { cancel(gone); return nil }, gone, false},
		"detached":              {false, func(c *Cmd, _ context.CancelCauseFunc) error { return c.Detach() }, ErrDetached, false},
		"detached by a context": {false, func(_ *Cmd, cancel context.CancelCauseFunc) error { cancel(ErrDetached); return nil }, ErrDetached, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := openForged(t, printer{ends: c.ends, killed: make(chan struct{})})
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				w := &stuckWriter{began: make(chan struct{}, 9), letGo: make(chan struct{})}
				cmd := s.Command("print")
				cmd.ID, cmd.Stdout = "job", w
				if err := cmd.Start(ctx); err != nil {
					t.Fatal(err)
				}
				<-w.began
				if err := c.leave(cmd, cancel); err != nil {
					t.Error(err)
				}
				err := cmd.Wait()
				var ee *ExitError
				if !errors.Is(err, c.want) || errors.As(err, &ee) != c.exit {
					t.Errorf("it ended with %v, want %v", err, c.want)
				}
				if u := cmd.Usage(); u.Stdout != 0 {
					t.Errorf("a reader got as far as byte %d", u.Stdout)
				}
				close(w.letGo)
				synctest.Wait()
				if len(w.took) != 1 || w.took[0] != "one\n" {
					t.Errorf("what was left behind wrote %q", w.took)
				}
			})
		})
	}
}

// The error of a guest's process has the end of what it printed, also when nobody else
// takes that, and nothing of what was left behind comes into it later.
func TestBlockedGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openForged(t, printer{stream: rpc.Output_STDERR, killed: make(chan struct{})})
		ctx, cancel := context.WithCancel(t.Context())
		w := &stuckWriter{began: make(chan struct{}, 9), letGo: make(chan struct{})}
		go func() { <-w.began; cancel() }()
		_, err := s.Guest(ctx, GuestStep{Step: "print", Stderr: w})
		var ee *ExitError
		if !errors.As(err, &ee) || string(ee.Stderr) != "one\n" {
			t.Errorf("it ended with %v, and printed %q", err, ee.Stderr)
		}
		close(w.letGo)
		synctest.Wait()
		if string(ee.Stderr) != "one\n" {
			t.Errorf("later it had printed %q", ee.Stderr)
		}
	})
}
