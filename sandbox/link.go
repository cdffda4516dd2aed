package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
)

// helloTimeout bounds dialling and the first call of a connection.
const helloTimeout = 20 * time.Second

// A link is one connection to the tool runner, made again when it broke.
type link struct {
	s *Sandbox

	mu     sync.Mutex
	conn   net.Conn
	client rpcconnect.RunnerClient
	dead   chan struct{} // closed when conn broke
}

// get returns a client on a live connection.
func (l *link) get(ctx context.Context) (rpcconnect.RunnerClient, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.s.destroyed:
		return nil, ErrLost
	default:
	}
	if l.client != nil {
		select {
		case <-l.dead:
			l.conn.Close()
			l.client = nil
		default:
			return l.client, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	conn, err := l.s.backend.Dial(ctx, l.s.id)
	if err != nil {
		return nil, err
	}
	dead := make(chan struct{})
	conn = rpc.Watch(conn, func() { close(dead) })
	client := rpcconnect.NewRunnerClient(rpc.Transport(conn), rpc.BaseURL, rpc.ClientOptions()...)
	hello, err := client.Hello(ctx, connect.NewRequest(l.s.hello()))
	if err == nil && hello.Msg.Protocol != rpc.Protocol {
		err = fmt.Errorf("the tool runner speaks protocol %d, not %d", hello.Msg.Protocol, rpc.Protocol)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	l.conn, l.client, l.dead = conn, client, dead
	return client, nil
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		l.conn.Close()
	}
}

// lost turns the failure of a call into ErrLost, unless it is the caller's own:
// its context ended, or the runner itself answered with an error.
func lost(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var ce *connect.Error
	if errors.Is(err, errors.ErrUnsupported) || errors.As(err, &ce) && connect.IsWireError(err) && ce.Code() != connect.CodeUnavailable {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}
