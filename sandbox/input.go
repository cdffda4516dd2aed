package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
)

// An input is the standard input of an exec: a reader, and what was read of it and not
// given yet. A Read that blocks cannot be interrupted; it outlives the exec that it is
// for, and what it returns is there for who goes on with both.
type input struct {
	r       io.Reader
	begun   bool          // given from offset on; else from where the exec is
	offset  int64         // of data
	reading chan struct{} // closed when there is data, or err; nil: nothing was asked for

	buf  []byte
	data []byte
	err  error // of r, behind data
}

func newInput(r io.Reader) *input {
	if r == nil {
		return nil
	}
	return &input{r: r}
}

// next returns what is closed when data and err are there.
func (in *input) next() <-chan struct{} {
	if in.reading == nil {
		if in.buf == nil {
			in.buf = make([]byte, 64<<10)
		}
		done := make(chan struct{})
		in.reading = done
		go func() {
			defer close(done)
			n, err := in.r.Read(in.buf)
			in.data, in.err = in.buf[:n], err
		}()
	}
	return in.reading
}

// keepInput keeps the input of an exec that nobody follows any more.
func (s *Sandbox) keepInput(id string, in *input) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inputs == nil {
		s.inputs = make(map[string]*input)
	}
	s.inputs[id] = in
}

// takeInput returns the input of an exec that is about to be followed: the one that was
// kept, if it is of the same reader.
func (s *Sandbox) takeInput(id string, r io.Reader) *input {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.inputs[id]
	delete(s.inputs, id)
	if in != nil && r != nil && reflect.ValueOf(r).Comparable() && in.r == r {
		return in
	}
	return newInput(r)
}

// feed gives the exec its input until either is over. Over a connection that broke, the
// runner got an unknown part of what was sent last; all of that is sent again, and
// what it has, it leaves out.
func (x *execution) feed(ctx context.Context) {
	in := x.stdin
	if !in.begun {
		in.begun, in.offset = true, x.given.Load()
	}
	for {
		select {
		case <-in.next():
		case <-ctx.Done():
			return
		}
		if !errors.Is(in.err, io.EOF) {
			x.readErr = in.err // before its end can be seen
		}
		closed, err := x.give(ctx, in)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			x.inputErr = err
			if x.kill(ctx, ctx) != nil {
				x.stop()
			}
			return
		case closed:
			x.readErr = nil // it did not want more
			return
		}
		in.offset += int64(len(in.data))
		in.data = nil
		if in.err != nil {
			return
		}
		in.reading = nil
	}
}

// give has the runner take what was read. When no connection lasts, it is over as soon
// as who follows the exec says so; the pauses are for a runner that refuses input alone.
func (x *execution) give(ctx context.Context, in *input) (closed bool, err error) {
	req := &rpc.InputRequest{Id: x.req.Id, Offset: in.offset, Data: in.data, Eof: in.err != nil}
	for pause := time.Millisecond; ; pause *= 2 {
		c, err := x.sb.data.get(ctx)
		if err == nil {
			var resp *connect.Response[rpc.InputResponse]
			if resp, err = c.Input(ctx, connect.NewRequest(req)); err == nil {
				return resp.Msg.Closed, nil
			}
		}
		if final(err) || errors.Is(err, ErrLost) || pause > time.Second {
			return false, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// withInput is how the exec ended, with what became of its input: as with package
// os/exec, an error of the reader is that of a command that succeeds otherwise.
func (x *execution) withInput(err error) error {
	var exit *ExitError
	if x.inputErr != nil && (err == nil || errors.As(err, &exit)) {
		return fmt.Errorf("%w: %s: its input: %w", ErrLost, x.name, x.inputErr)
	}
	if err == nil && x.readErr != nil {
		return fmt.Errorf("sandbox: %s: read its input: %w", x.name, x.readErr)
	}
	return err
}
