package sandboxtest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"testing"
	"time"

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

func testConnections(t *testing.T, b sandbox.Backend, spec sandbox.Spec) {
	ctx := bounded(t)
	token := []byte("a token that only the worker has")
	id := fmt.Sprintf("suite-%d", time.Now().UnixNano())
	if _, err := b.Create(ctx, sandbox.Creation{ID: id, Spec: spec, TokenHash: sha256.Sum256(token)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Destroy(context.Background(), id) })
	if _, err := b.Create(ctx, sandbox.Creation{ID: id, Spec: spec, TokenHash: sha256.Sum256(token)}); err == nil {
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
