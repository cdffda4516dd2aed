package broker

import (
	"context"
	"crypto/ed25519"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
)

// service answers the calls of workers.
type service struct{ b *broker }

// Check implements rpcconnect.BrokerHandler.
func (s service) Check(ctx context.Context, req *connect.Request[rpc.CheckRequest]) (*connect.Response[rpc.CheckResponse], error) {
	c, err := coming(req.Msg.Claim)
	if err == nil {
		err = s.b.check(ctx, c, req.Msg.Step, req.Msg.Backend)
	}
	return connect.NewResponse(&rpc.CheckResponse{}), wire(err)
}

// Begin implements rpcconnect.BrokerHandler.
func (s service) Begin(ctx context.Context, req *connect.Request[rpc.BeginRequest]) (*connect.Response[rpc.BeginResponse], error) {
	c, err := claimed(req.Msg.Claim)
	if err != nil {
		return nil, wire(err)
	}
	f, err := s.b.facts(ctx, c)
	if err != nil {
		return nil, wire(err)
	}
	digest, err := s.b.digest(ctx, f)
	if err != nil {
		return nil, wire(err)
	}
	public := s.b.root.sign.Public().(ed25519.PublicKey)
	return connect.NewResponse(&rpc.BeginResponse{Facts: s.b.sealed(f, digest).Encode(), PublicKey: public}), nil
}

// Issue implements rpcconnect.BrokerHandler.
func (s service) Issue(ctx context.Context, req *connect.Request[rpc.IssueRequest]) (*connect.Response[rpc.IssueResponse], error) {
	c, err := claimed(req.Msg.Claim)
	if err != nil {
		return nil, wire(err)
	}
	out, err := s.b.issue(ctx, c, req.Msg.Hello)
	if err != nil {
		return nil, wire(err)
	}
	return connect.NewResponse(out), nil
}

// Opened implements rpcconnect.BrokerHandler.
func (s service) Opened(ctx context.Context, req *connect.Request[rpc.OpenedRequest]) (*connect.Response[rpc.OpenedResponse], error) {
	c, err := claimed(req.Msg.Claim)
	if err == nil {
		if lost := req.Msg.Lost; lost != "" {
			err = s.b.lost(ctx, c, lost)
		} else {
			err = s.b.opened(ctx, c)
		}
	}
	return connect.NewResponse(&rpc.OpenedResponse{}), wire(err)
}

// Renew implements rpcconnect.BrokerHandler.
func (s service) Renew(ctx context.Context, req *connect.Request[rpc.RenewRequest]) (*connect.Response[rpc.RenewResponse], error) {
	c, err := claimed(req.Msg.Claim)
	if err != nil {
		return nil, wire(err)
	}
	out, err := s.b.renew(ctx, c, req.Msg.Challenge)
	if err != nil {
		return nil, wire(err)
	}
	return connect.NewResponse(out), nil
}

// Close implements rpcconnect.BrokerHandler.
func (s service) Close(ctx context.Context, req *connect.Request[rpc.CloseRequest]) (*connect.Response[rpc.CloseResponse], error) {
	c, err := claimed(req.Msg.Claim)
	if err == nil {
		err = s.b.close(ctx, c)
	}
	return connect.NewResponse(&rpc.CloseResponse{}), wire(err)
}
