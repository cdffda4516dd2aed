package runner

import (
	"context"
	"errors"
	"sync"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/rpc"
)

// mistrust refuses what came from the broker, or in its name.
func mistrust(err error) error {
	if lost, ok := errors.AsType[*unwrapError](err); ok {
		return lost.refusal()
	}
	return connect.NewError(connect.CodeInvalidArgument, err)
}

func (s service) Key(_ context.Context, req *connect.Request[rpc.KeyRequest]) (*connect.Response[rpc.KeyResponse], error) {
	hello, err := s.execs.secrets.makeKey(req.Msg.Facts, req.Msg.Broker)
	if err != nil {
		return nil, mistrust(err)
	}
	return connect.NewResponse(&rpc.KeyResponse{Hello: hello}), nil
}

func (s service) Deliver(ctx context.Context, req *connect.Request[rpc.DeliverRequest]) (*connect.Response[rpc.DeliverResponse], error) {
	if err := s.execs.secrets.deliver(ctx, req.Msg.Envelope); err != nil {
		return nil, mistrust(err)
	}
	return connect.NewResponse(&rpc.DeliverResponse{}), nil
}

func (s service) Challenge(context.Context, *connect.Request[rpc.ChallengeRequest]) (*connect.Response[rpc.ChallengeResponse], error) {
	c := s.execs.secrets.leash.ask()
	return connect.NewResponse(&rpc.ChallengeResponse{Challenge: c[:]}), nil
}

// Prolong ends all that runs if the broker says that it must not go on. The sandbox
// itself ends a little later.
func (s service) Prolong(ctx context.Context, req *connect.Request[rpc.ProlongRequest]) (*connect.Response[rpc.ProlongResponse], error) {
	revoked, err := s.execs.secrets.leash.renew(req.Msg.Renewal)
	if err != nil {
		return nil, mistrust(err)
	}
	if revoked {
		var kills sync.WaitGroup
		for _, e := range s.execs.all() {
			kills.Go(func() { _ = e.kill(ctx) })
		}
		kills.Wait()
	}
	return connect.NewResponse(&rpc.ProlongResponse{}), nil
}

func (s service) Forget(ctx context.Context, req *connect.Request[rpc.ForgetRequest]) (*connect.Response[rpc.ForgetResponse], error) {
	if len(req.Msg.Envelope) != len(envelope.ID{}) {
		return nil, mistrust(errors.New("no id of an envelope"))
	}
	s.execs.secrets.forget(envelope.ID(req.Msg.Envelope), func(e *exec) { _ = e.kill(ctx) })
	return connect.NewResponse(&rpc.ForgetResponse{}), nil
}

// Found implements rpcconnect.RunnerHandler.
func (s service) Found(context.Context, *connect.Request[rpc.FoundRequest]) (*connect.Response[rpc.FoundResponse], error) {
	var out rpc.FoundResponse
	for _, c := range s.execs.redactor.Counts() {
		out.Counts = append(out.Counts, &rpc.FoundResponse_Count{Name: c.Name, Class: c.Class, N: int64(c.N)})
	}
	return connect.NewResponse(&out), nil
}
