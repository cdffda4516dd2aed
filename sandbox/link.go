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

	mu   sync.Mutex // never held while something is waited for
	dial *dial      // the last; nil before the first
}

// A dial is a connection that is made, for all who ask for it meanwhile, or that was.
type dial struct {
	stop context.CancelFunc
	done chan struct{} // closed when the following is there

	conn   net.Conn
	client rpcconnect.RunnerClient
	dead   chan struct{} // closed when conn broke
	err    error
}

// get returns a client on a live connection.
func (l *link) get(ctx context.Context) (rpcconnect.RunnerClient, error) {
	d, err := l.current(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case <-d.done:
		return d.client, d.err
	case <-l.s.destroyed:
		return nil, ErrLost
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// current returns the connection that there is, or begins to make one. That goes on
// when ctx ends: others may wait for it.
func (l *link) current(ctx context.Context) (*dial, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.s.destroyed:
		return nil, ErrLost
	default:
	}
	if d := l.dial; d != nil && !d.over() {
		return d, nil
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), helloTimeout)
	d := &dial{stop: stop, done: make(chan struct{}), dead: make(chan struct{})}
	l.dial = d
	hello := l.s.hello()
	go func() {
		defer close(d.done)
		defer stop()
		d.client, d.err = d.connect(ctx, l.s, hello)
	}()
	return d, nil
}

// over reports whether another connection is to be made.
func (d *dial) over() bool {
	select {
	case <-d.done:
	default:
		return false
	}
	if d.err != nil {
		return true
	}
	select {
	case <-d.dead:
		d.conn.Close()
		return true
	default:
		return false
	}
}

func (d *dial) connect(ctx context.Context, s *Sandbox, greeting *rpc.HelloRequest) (rpcconnect.RunnerClient, error) {
	conn, err := s.backend.Dial(ctx, s.id)
	if err != nil {
		return nil, err
	}
	conn = rpc.Watch(conn, func() { close(d.dead) })
	client := rpcconnect.NewRunnerClient(rpc.Transport(conn), rpc.BaseURL, rpc.ClientOptions()...)
	hello, err := client.Hello(ctx, connect.NewRequest(greeting))
	if err == nil && hello.Msg.Protocol != rpc.Protocol {
		err = fmt.Errorf("the tool runner speaks protocol %d, not %d", hello.Msg.Protocol, rpc.Protocol)
	}
	if err == nil {
		err = ctx.Err() // closed meanwhile
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	d.conn = conn
	return client, nil
}

// close closes the connection, also when it is made only now. It follows the close of
// destroyed: there is no other one after it.
func (l *link) close() {
	l.mu.Lock()
	d := l.dial
	l.mu.Unlock()
	if d == nil {
		return
	}
	d.stop()
	select {
	case <-d.done:
		d.hangUp()
	default:
		go func() { <-d.done; d.hangUp() }()
	}
}

func (d *dial) hangUp() {
	if d.conn != nil {
		d.conn.Close()
	}
}

// final reports whether the runner itself answered with an error: a connection that
// broke is not one.
func final(err error) bool {
	var ce *connect.Error
	return errors.As(err, &ce) && connect.IsWireError(err) && ce.Code() != connect.CodeUnavailable
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
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, errForged) || errors.Is(err, errEntries) || final(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}
