package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/stepward/stepward/internal/rpc"
)

// overdue is how long after a deadline the answer of an Invoker may come, whose
// tool runner keeps the deadline.
const overdue = 10 * time.Second

// needsLink refuses what a command of an Invoker cannot have.
func (c *Cmd) needsLink() error {
	if c.sb.invoker == nil {
		return nil
	}
	for _, f := range []struct {
		field string
		set   bool
	}{{"Terminal", c.Terminal != nil}, {"ID", c.ID != ""}, {"Attach", c.attach != nil}, {"Secrets", len(c.Secrets) > 0}} {
		if f.set {
			return fmt.Errorf("sandbox: backend %s has no %s of commands: %w", c.sb.Backend(), f.field, errors.ErrUnsupported)
		}
	}
	return nil
}

// awaitTimeout waits until the tool runner has ended an exec by itself. Nobody
// tells it of a cancelation.
func (x *execution) awaitTimeout(ctx context.Context) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	late := time.NewTimer(overdue)
	defer late.Stop()
	select {
	case <-x.ended:
		return nil
	case <-late.C:
		return context.DeadlineExceeded
	}
}

// invoke has an Invoker run the exec, and reads events until the end.
func (x *execution) invoke(ctx, stream context.Context, started func()) error {
	request, err := x.request(ctx, stream)
	if err != nil {
		return err
	}
	unknown := func(err error) error {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		if errors.Is(err, ErrLost) {
			return fmt.Errorf("%s: %w", x.name, err)
		}
		return fmt.Errorf("%w: %s: %w", ErrLost, x.name, err)
	}
	body, err := x.sb.invoker.Invoke(stream, x.sb.id, request)
	switch {
	case errors.Is(err, ErrLost), err != nil && stream.Err() != nil:
		return unknown(err)
	case err != nil:
		return fmt.Errorf("%s: %w", x.name, err)
	}
	defer body.Close()
	// It is closed when nobody waits for it any more.
	defer context.AfterFunc(stream, func() { body.Close() })()
	in := bufio.NewReader(body)
	for {
		var event rpc.ExecEvent
		if err := (protodelim.UnmarshalOptions{MaxSize: rpc.MaxMessage}).UnmarshalFrom(in, &event); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("its events ended without an end event")
			}
			return unknown(err)
		}
		switch ev := event.Event.(type) {
		case *rpc.ExecEvent_Started:
			started()
		case *rpc.ExecEvent_Output:
			x.output(stream, ev.Output)
		case *rpc.ExecEvent_End:
			return x.result(ctx, ev.End)
		}
	}
}

// request is all that the tool runner gets: the exec, and its input.
func (x *execution) request(ctx, stream context.Context) ([]byte, error) {
	var input []byte
	if x.stdin != nil {
		type all struct {
			data []byte
			err  error
		}
		read := make(chan all, 1)
		go func() {
			data, err := io.ReadAll(io.LimitReader(x.stdin.r, rpc.MaxMessage+1))
			read <- all{data, err}
		}()
		select {
		case in := <-read: // what was read before an error is the input, as elsewhere
			input, x.readErr = in.data, in.err
		case <-stream.Done():
			return nil, context.Cause(ctx)
		}
		if len(input) > rpc.MaxMessage {
			return nil, fmt.Errorf("sandbox: the input of %s is over %d bytes", x.name, rpc.MaxMessage)
		}
	}
	if x.req.Guest != nil {
		x.req.Guest.NoReceipts = true
	}
	if deadline, ok := ctx.Deadline(); ok {
		left := int64(max(time.Until(deadline), 1))
		if x.req.TimeoutNs == 0 || left < x.req.TimeoutNs {
			x.req.TimeoutNs, x.limited = left, false
		}
	}
	var b bytes.Buffer
	_, err := protodelim.MarshalTo(&b, x.req)
	b.Write(input)
	return b.Bytes(), err
}
