package brokerlink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
)

// An AddressError reports an address that no broker can have.
type AddressError struct {
	Address string
	Reason  string
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("broker address %q: %s", e.Address, e.Reason)
}

// A StartError reports that a broker does not start. A deploy may cure that.
type StartError struct {
	Err  error
	Away bool // its database is, or what starts it, or it took too long: it may start the next time, or elsewhere
}

func (e *StartError) Error() string { return "the broker of secrets does not start: " + e.Err.Error() }

func (e *StartError) Unwrap() error { return e.Err }

// A Link is the way to a broker. It may be used by several goroutines.
type Link struct {
	mu     sync.Mutex
	client rpcconnect.BrokerClient
	web    *http.Client
	child  *child // nil: none, or it has ended
	start  func(ctx context.Context) (*child, error)
	closed bool
}

// New returns the way to an address: unix:///path or https://host:port, the latter with a
// certificate of this side's own in tls.
func New(address string, t *tls.Config) (*Link, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, &AddressError{address, "it is no URL"}
	}
	switch {
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		var p http.Protocols
		p.SetUnencryptedHTTP2(true)
		web := &http.Client{Transport: &http.Transport{Protocols: &p, HTTP2: pings(), DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", u.Path)
		}}}
		return &Link{web: web, client: rpcconnect.NewBrokerClient(web, rpc.BaseURL, rpc.ClientOptions()...)}, nil
	case u.Scheme == "https" && u.Host != "" && (u.Path == "" || u.Path == "/"):
		if t == nil || len(t.Certificates) == 0 && t.GetClientCertificate == nil {
			return nil, &AddressError{address, "the worker needs a certificate of its own to show there"}
		}
		var p http.Protocols
		p.SetHTTP2(true)
		web := &http.Client{Transport: &http.Transport{Protocols: &p, HTTP2: pings(), DisableCompression: true, TLSClientConfig: t.Clone()}}
		return &Link{web: web, client: rpcconnect.NewBrokerClient(web, strings.TrimSuffix(address, "/"), rpc.ClientOptions()...)}, nil
	}
	return nil, &AddressError{address, "want unix:///path or https://host:port"}
}

// pings find out that the other end of a connection has gone without a word.
func pings() *http.HTTP2Config {
	return &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second}
}

// Child returns the way to a broker that is a child of this process, started at the first call, and
// again when it has ended. setup describes its database: in a process that was root, that of [Pin]. log is
// given what it writes.
func Child(setup Setup, log func(line string)) *Link {
	return &Link{start: func(ctx context.Context) (*child, error) { return startChild(ctx, setup, log) }}
}

// Client returns what to call. It starts the child if there is none.
func (l *Link) Client(ctx context.Context) (rpcconnect.BrokerClient, error) {
	if l.start == nil {
		return l.client, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	if l.child != nil && !l.child.over() {
		return l.client, nil
	}
	if l.child != nil {
		l.child.close()
		l.child = nil
	}
	c, err := l.start(ctx)
	if err != nil {
		return nil, &StartError{Err: err, Away: errors.Is(err, errAway) || errors.Is(err, ErrLauncher) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)}
	}
	l.child = c
	l.client = rpcconnect.NewBrokerClient(rpc.Transport(c.conn), rpc.BaseURL, rpc.ClientOptions()...)
	return l.client, nil
}

// Pid returns the process of the child; 0: there is none.
func (l *Link) Pid() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.child == nil {
		return 0
	}
	return l.child.pid()
}

// ErrLauncher reports that the process that was left behind to start brokers has ended.
var ErrLauncher = errors.New("what starts brokers under their own user has ended: start this program again")

// errAway reports a child that cannot reach its database.
var errAway = errors.New("its database is away")

// Forsake has the next call make a connection of its own, if none is busy: one was not answered. That
// to a child is as good as the child.
func (l *Link) Forsake() {
	if l.web != nil {
		l.web.CloseIdleConnections()
	}
}

// Close ends the child, if there is one. Nil is closed.
func (l *Link) Close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.child != nil {
		l.child.close()
		l.child = nil
	}
	if l.web != nil {
		l.web.CloseIdleConnections()
	}
}

// A Refusal is the broker's no. Nobody who asks again hears anything else, unless something changes.
type Refusal struct {
	Reason string // see Refusal of broker.proto
	Name   string // of the secret; empty: it is about all
	Err    error
}

func (e *Refusal) Error() string { return e.Err.Error() }

func (e *Refusal) Unwrap() error { return e.Err }

// Refused returns the refusal that an error of a call is, or nil.
func Refused(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	var wire *connect.Error
	if !errors.As(err, &wire) {
		return nil
	}
	for _, d := range wire.Details() {
		v, err := d.Value()
		if r, ok := v.(*rpc.Refusal); err == nil && ok {
			return &Refusal{Reason: r.Reason, Name: r.Name, Err: errors.New(wire.Message())}
		}
	}
	return nil
}

// startTimeout is how long a child may take until it serves.
const startTimeout = 15 * time.Second
