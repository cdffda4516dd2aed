package brokerlink

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
)

// Inject returns a connection of an attempt's sandbox to an endpoint, by way of the broker. ctx is for making it.
func Inject(ctx context.Context, c rpcconnect.BrokerClient, claim *rpc.Claim, endpoint string) (net.Conn, error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	s := c.Inject(life)
	err := s.Send(&rpc.InjectRequest{Claim: claim, Endpoint: endpoint})
	if err == nil || errors.Is(err, io.EOF) { // the end of the stream has the reason
		_, err = s.Receive()
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &streamed{s: s, cancel: cancel}, nil
}

// streamed is a connection over a stream. Deadlines do nothing.
type streamed struct {
	s      *connect.BidiStreamForClient[rpc.InjectRequest, rpc.InjectResponse]
	cancel func()
	left   []byte // used by the one reader

	mu     sync.Mutex
	closed bool // for writing
}

const maxPart = 32 << 10

func (c *streamed) Read(p []byte) (int, error) {
	for len(c.left) == 0 {
		m, err := c.s.Receive()
		if err != nil {
			return 0, err
		}
		c.left = m.Data
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

func (c *streamed) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(p) > 0 {
		if c.closed {
			return n, net.ErrClosed
		}
		part := p[:min(len(p), maxPart)]
		if err := c.s.Send(&rpc.InjectRequest{Data: part}); err != nil {
			return n, err
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

// CloseWrite ends this direction.
func (c *streamed) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.s.CloseRequest()
}

func (c *streamed) Close() error {
	c.cancel()
	return nil
}

func (*streamed) LocalAddr() net.Addr              { return &net.UnixAddr{Net: "unix"} }
func (*streamed) RemoteAddr() net.Addr             { return &net.UnixAddr{Net: "unix"} }
func (*streamed) SetDeadline(time.Time) error      { return nil }
func (*streamed) SetReadDeadline(time.Time) error  { return nil }
func (*streamed) SetWriteDeadline(time.Time) error { return nil }
