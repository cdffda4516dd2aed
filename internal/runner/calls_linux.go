package runner

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/rpc"
)

func (s service) Exec(ctx context.Context, req *connect.Request[rpc.ExecRequest], stream *connect.ServerStream[rpc.ExecEvent]) error {
	if req.Msg.Id == "" || (req.Msg.Name == "" && req.Msg.Guest == nil && !req.Msg.Attach) {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("exec without an id or a name"))
	}
	c := ctx.Value(connKey{}).(*conn)
	s.mu.Lock()
	epoch := c.epoch
	s.mu.Unlock()
	e, err := s.execs.get(req.Msg, epoch)
	if err != nil {
		return err
	}
	return s.execs.follow(ctx, e, [3]int64{req.Msg.StdoutOffset, req.Msg.StderrOffset, req.Msg.AnswerOffset}, stream.Send)
}

// follow sends the events of an exec, with its output from the offsets on.
func (x *execs) follow(ctx context.Context, e *exec, offsets [3]int64, send func(*rpc.ExecEvent) error) (err error) {
	for i := range e.out {
		e.out[i].took(offsets[i])
	}
	select {
	case <-e.started:
		err = send(&rpc.ExecEvent{Event: &rpc.ExecEvent_Started{Started: &rpc.Started{StdinOffset: e.given()}}})
	case <-e.empty:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	const most = 64 << 10
	for {
		wait := e.wake.wait()
		idle, over := true, true
		for i := range e.out {
			data, at, done := e.out[i].read(offsets[i], most)
			over = over && done
			if len(data) == 0 {
				continue
			}
			idle = false
			out := &rpc.Output{Stream: rpc.Output_Stream(i), Offset: at, Data: data, Truncated: at - offsets[i]}
			if err := send(&rpc.ExecEvent{Event: &rpc.ExecEvent_Output{Output: out}}); err != nil {
				return err
			}
			offsets[i] = at + int64(len(data))
			e.out[i].took(offsets[i])
		}
		switch {
		case over:
			err := send(&rpc.ExecEvent{Event: &rpc.ExecEvent_End{End: e.end}})
			if err == nil {
				x.read(e)
			}
			return err
		case idle:
			select {
			case <-wait:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func (s service) Input(ctx context.Context, req *connect.Request[rpc.InputRequest]) (*connect.Response[rpc.InputResponse], error) {
	e := s.execs.find(req.Msg.Id)
	if e == nil {
		return connect.NewResponse(&rpc.InputResponse{Closed: true}), nil
	}
	closed, err := e.input(ctx, req.Msg.Offset, req.Msg.Data, req.Msg.Eof)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&rpc.InputResponse{Closed: closed}), nil
}

func (s service) Signal(_ context.Context, req *connect.Request[rpc.SignalRequest]) (*connect.Response[rpc.SignalResponse], error) {
	sig := unix.SignalNum(req.Msg.Signal)
	if req.Msg.Signal != "" && sig == 0 {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("no signal %q", req.Msg.Signal))
	}
	e := s.execs.find(req.Msg.Id)
	if e == nil {
		return connect.NewResponse(&rpc.SignalResponse{}), nil
	}
	e.inMu.Lock()
	defer e.inMu.Unlock()
	if size := req.Msg.Terminal; size != nil {
		if e.terminal == nil {
			return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the command has no terminal"))
		}
		if err := e.terminal.resize(size); err != nil {
			return connect.NewResponse(&rpc.SignalResponse{}), nil
		}
	}
	if sig != 0 && e.shim != nil {
		e.shim.Signal(sig)
	}
	return connect.NewResponse(&rpc.SignalResponse{Found: e.shim != nil}), nil
}

func (s service) Kill(ctx context.Context, req *connect.Request[rpc.KillRequest]) (*connect.Response[rpc.KillResponse], error) {
	e := s.execs.find(req.Msg.Id)
	if e == nil {
		return connect.NewResponse(&rpc.KillResponse{}), nil
	}
	if err := e.kill(ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(&rpc.KillResponse{Found: true}), nil
}
