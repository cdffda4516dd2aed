package sandboxtest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net"
	"testing"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
	"github.com/stepward/stepward/sandbox"
)

// hello connects by hand.
func hello(ctx context.Context, b sandbox.Backend, id string, token []byte, epoch int64) (rpcconnect.RunnerClient, net.Conn, <-chan struct{}, error) {
	conn, err := b.Dial(ctx, id)
	if err != nil {
		return nil, nil, nil, err
	}
	closed := make(chan struct{})
	conn = rpc.Watch(conn, func() { close(closed) })
	c := rpcconnect.NewRunnerClient(rpc.Transport(conn), rpc.BaseURL, rpc.ClientOptions()...)
	if token != nil {
		_, err = c.Hello(ctx, connect.NewRequest(&rpc.HelloRequest{Token: token, Epoch: epoch}))
	}
	return c, conn, closed, err
}

// tokenOf is the token of a sandbox's tool runner, which only the worker has.
func tokenOf(t *testing.T, s *sandbox.Sandbox) []byte {
	t.Helper()
	var open struct{ Token []byte }
	stored, err := s.Handle().MarshalBinary()
	if err == nil {
		err = json.Unmarshal(stored, &open)
	}
	if err != nil || len(open.Token) == 0 {
		t.Fatalf("a handle without a token: %v", err)
	}
	return open.Token
}

func testConnections(t *testing.T, b sandbox.Backend, s *sandbox.Sandbox) {
	ctx, id, token := bounded(t), s.ID(), tokenOf(t, s)
	if _, err := b.Create(ctx, sandbox.Creation{ID: id, Spec: s.Handle().Spec, TokenHash: sha256.Sum256(token)}); err == nil {
		t.Error("creating the same id twice succeeded")
	}
	gone := func(what string, closed <-chan struct{}) {
		t.Helper()
		select {
		case <-closed:
		case <-ctx.Done():
			t.Errorf("%s: the connection stays open", what)
		}
	}
	_, conn, closed, err := hello(ctx, b, id, []byte("wrong"), 1)
	if err == nil {
		t.Error("a wrong token was accepted")
	}
	gone("wrong token", closed)
	conn.Close()

	c, conn, closed, err := hello(ctx, b, id, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kill(ctx, connect.NewRequest(&rpc.KillRequest{Id: "x"})); err == nil {
		t.Error("a call before Hello was answered")
	}
	gone("no Hello", closed)
	conn.Close()

	low, lowConn, lowClosed, err := hello(ctx, b, id, token, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer lowConn.Close()
	same, sameConn, _, err := hello(ctx, b, id, token, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer sameConn.Close()
	for _, c := range []rpcconnect.RunnerClient{low, same} {
		if _, err := c.Kill(ctx, connect.NewRequest(&rpc.KillRequest{Id: "x"})); err != nil {
			t.Errorf("two connections of one epoch: %v", err)
		}
	}
	_, highConn, _, err := hello(ctx, b, id, token, 6)
	if err != nil {
		t.Fatal(err)
	}
	defer highConn.Close()
	gone("lower epoch", lowClosed)
	if _, c, _, err := hello(ctx, b, id, token, 5); err == nil {
		t.Error("a stale epoch was accepted")
	} else if c != nil {
		c.Close()
	}
}
