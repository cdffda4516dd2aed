package rpc

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
)

// Protocol is the version that both sides of a connection must speak.
const Protocol = 1

// MaxMessage bounds a single message in either direction, in bytes.
const MaxMessage = 64 << 20

// Heartbeats of a guest, and what it shows, stand before its answer: the numbers of
// the fields of GuestAnswer that they consist of, and how much one may hold.
const (
	DetailsField = 4
	MaxDetails   = 64 << 10
	ShownField   = 5
)

// Transport returns an HTTP client whose requests all go over conn, and which
// never makes another connection. Closing conn fails what is in flight.
func Transport(conn net.Conn) *http.Client {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	var taken atomic.Bool
	over := make(chan struct{})
	return &http.Client{Transport: &http.Transport{
		Protocols: &p,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if taken.Swap(true) {
				// A request that comes before the first one's connection is on the list of those
				// that can be shared asks for another. It gets that one, if it waits.
				select {
				case <-over:
					return nil, net.ErrClosed
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return Watch(conn, func() { close(over) }), nil
		},
		HTTP2: &http.HTTP2Config{
			StrictMaxConcurrentRequests: true,
			MaxReadFrameSize:            1 << 20,
			MaxReceiveBufferPerStream:   1 << 20,
			SendPingTimeout:             15 * time.Second,
			PingTimeout:                 15 * time.Second,
		},
		DisableCompression: true,
	}}
}

// BaseURL is the address that clients of a [Transport] use; it names nothing.
const BaseURL = "http://runner"

// ClientOptions are the options of every Connect client in this module.
func ClientOptions() []connect.ClientOption {
	return []connect.ClientOption{
		connect.WithAcceptCompression("gzip", nil, nil),
		connect.WithReadMaxBytes(MaxMessage),
	}
}

// HandlerOptions are the options of every Connect handler in this module.
func HandlerOptions() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithCompression("gzip", nil, nil),
		connect.WithReadMaxBytes(MaxMessage),
	}
}

// Watch wraps conn so that closed is called once, when the connection is closed
// from this side or when reading from it fails.
func Watch(conn net.Conn, closed func()) net.Conn {
	return &watched{Conn: conn, closed: sync.OnceFunc(closed)}
}

type watched struct {
	net.Conn
	closed func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	var timeout net.Error
	if err != nil && (!errors.As(err, &timeout) || !timeout.Timeout()) {
		w.closed()
	}
	return n, err
}

func (w *watched) Close() error {
	w.closed()
	return w.Conn.Close()
}
