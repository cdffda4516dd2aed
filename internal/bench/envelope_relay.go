package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
)

// between is a broker that asks another, and remembers the calls that lend secrets.
type between struct {
	rpcconnect.UnimplementedBrokerHandler // of what these steps do not ask

	link   *brokerlink.Link
	server *http.Server
	counts *cluster // what is written is counted there, and nothing is timed; nil: the other way round

	mu    sync.Mutex
	calls []call
}

// A call is one of Begin, Issue and Opened.
type call struct {
	asked, answered time.Time
	writes          float64
}

func (r *between) listen(path string) error {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	_, handler := rpcconnect.NewBrokerHandler(r, rpc.HandlerOptions()...)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	r.server = &http.Server{Handler: handler, Protocols: &p, ReadHeaderTimeout: time.Minute}
	go func() { _ = r.server.Serve(ln) }() // until it is closed
	return nil
}

func (r *between) close() {
	if r.server != nil {
		_ = r.server.Close()
	}
	r.link.Close()
}

// take returns the calls since the last time.
func (r *between) take() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

// remember calls f and writes down what it took.
func (r *between) remember(ctx context.Context, f func() error) (err error) {
	var c call
	if r.counts == nil {
		c.asked = time.Now()
		err = f()
		c.answered = time.Now()
	} else {
		var from, to measure.Mark
		if from, err = r.counts.Mark(ctx); err == nil {
			err = f()
		}
		if err == nil {
			to, err = r.counts.Mark(ctx)
			c.writes = from.To(to).Xacts
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, c)
	return err
}

// ask asks the other broker.
func ask[A, B any](ctx context.Context, r *between, a *connect.Request[A], call func(rpcconnect.BrokerClient, context.Context, *connect.Request[A]) (*connect.Response[B], error)) (*connect.Response[B], error) {
	c, err := r.link.Client(ctx)
	if err != nil {
		return nil, err
	}
	out, err := call(c, ctx, connect.NewRequest(a.Msg)) // without the headers that came with it
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(out.Msg), nil
}

func (r *between) Check(ctx context.Context, a *connect.Request[rpc.CheckRequest]) (*connect.Response[rpc.CheckResponse], error) {
	return ask(ctx, r, a, rpcconnect.BrokerClient.Check)
}

func (r *between) Begin(ctx context.Context, a *connect.Request[rpc.BeginRequest]) (out *connect.Response[rpc.BeginResponse], err error) {
	err = r.remember(ctx, func() error { out, err = ask(ctx, r, a, rpcconnect.BrokerClient.Begin); return err })
	return out, err
}

func (r *between) Issue(ctx context.Context, a *connect.Request[rpc.IssueRequest]) (out *connect.Response[rpc.IssueResponse], err error) {
	err = r.remember(ctx, func() error { out, err = ask(ctx, r, a, rpcconnect.BrokerClient.Issue); return err })
	return out, err
}

func (r *between) Opened(ctx context.Context, a *connect.Request[rpc.OpenedRequest]) (out *connect.Response[rpc.OpenedResponse], err error) {
	err = r.remember(ctx, func() error { out, err = ask(ctx, r, a, rpcconnect.BrokerClient.Opened); return err })
	return out, err
}

func (r *between) Renew(ctx context.Context, a *connect.Request[rpc.RenewRequest]) (*connect.Response[rpc.RenewResponse], error) {
	return ask(ctx, r, a, rpcconnect.BrokerClient.Renew)
}

func (r *between) Close(ctx context.Context, a *connect.Request[rpc.CloseRequest]) (*connect.Response[rpc.CloseResponse], error) {
	return ask(ctx, r, a, rpcconnect.BrokerClient.Close)
}
