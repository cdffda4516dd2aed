package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/egress"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
)

// Bounds of what a peer can make the broker do at a time.
const (
	maxFrame   = 64 << 10 // of a message to the broker
	maxStreams = 1024     // calls of one connection: maxHosts of them may last
)

// Serve answers workers that connect to ln until ctx is done; then it returns nil. A unix
// socket is for the users of [Config].Peers, any other listener for those who can show a
// certificate: see [Config].TLS. Before it serves, it makes its process unreadable for others
// of its user, and leaves no core of it. Places and rates are shared by who comes in by one listener.
func Serve(ctx context.Context, ln net.Listener, cfg Config) error {
	b, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	if _, unix := ln.Addr().(*net.UnixAddr); !unix && cfg.TLS == nil {
		return errors.New("broker: Config.TLS is required for a listener that is no unix socket")
	}
	return b.serve(ctx, ln)
}

// broker is one that is configured.
type broker struct {
	Config
	q      *db.Queries
	root   *root
	actor  string
	rates  rates
	uses   rates         // of secrets that are put into requests
	parent *standing     // of the worker that has started it, and has the only connection; nil: it is a service
	closed chan struct{} // receives when something was closed

	installation string // whose sandboxes it makes

	network    egress.Network // by which hosts are reached
	injections injections

	hall, conns, calls, dials, hosts places
}

func open(ctx context.Context, cfg Config) (*broker, error) {
	if err := harden(); err != nil {
		return nil, err
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &broker{Config: cfg, actor: "broker", closed: make(chan struct{}, 1), network: egress.NetworkOf(ctx)}
	b.hall = places{of: "connections of those that have not said who they are", size: maxHall}
	b.conns = places{of: "connections to the broker", size: maxConns}
	b.calls = places{of: "calls to the broker that go on", size: maxCalls}
	b.dials = places{of: "connections to sandboxes", size: maxDials}
	b.hosts = places{of: "connections to hosts with a secret", size: maxHosts}
	if b.q, err = db.New(cfg.Schema); err != nil {
		return nil, err
	}
	if b.root, err = openRoot(cfg.Dir); err != nil {
		return nil, err
	}
	if b.Sandboxes != nil {
		b.Attestors = maps.Clone(b.Attestors)
		if b.Attestors == nil {
			b.Attestors = map[string]Attestor{}
		}
		b.Attestors[b.Sandboxes.Name()] = b.launched()
	}
	if err := db.Check(ctx, cfg.Pool, b.q); err != nil || b.Sandboxes == nil {
		return b, err
	}
	if err := cfg.Pool.QueryRow(ctx, b.q.Installation).Scan(&b.installation); err != nil {
		return nil, fmt.Errorf("broker: which installation it is of: %w", err)
	}
	return b, nil
}

func (b *broker) serve(ctx context.Context, ln net.Listener) error {
	_, handler := rpcconnect.NewBrokerHandler(service{b}, connect.WithInterceptors(b.sharing()), connect.WithCompression("gzip", nil, nil), connect.WithReadMaxBytes(maxFrame))
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	p.SetHTTP2(true)
	p.SetHTTP1(b.Sandboxes != nil) // a connection to a sandbox begins with it
	srv := &http.Server{
		Handler: seated(b.launches(ctx, handler)), Protocols: &p,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			if v, ok := c.(*visitor); ok {
				return context.WithValue(context.WithValue(ctx, standingKey{}, v.standing), visitorKey{}, v)
			}
			return ctx
		},
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReadFrameSize: 64 << 10, MaxReceiveBufferPerStream: 128 << 10, MaxReceiveBufferPerConnection: 64 << 20, SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
		ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0),
	}
	sweeping, stop := context.WithCancel(ctx)
	defer stop()
	var loops sync.WaitGroup
	loops.Go(func() { b.sweep(sweeping) })
	loops.Go(func() { b.endings(sweeping) })
	defer loops.Wait()
	defer stop()
	defer b.endInjections(ctx)
	defer context.AfterFunc(ctx, func() {
		soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := srv.Shutdown(soon); err != nil {
			b.Logger.Warn("calls are cut off", "error", errors.Join(err, srv.Close()))
		}
	})()
	_, unix := ln.Addr().(*net.UnixAddr)
	var door net.Listener = &doorman{Listener: ln, b: b, unknown: !unix}
	if !unix {
		t := b.TLS.Clone()
		t.ClientAuth, t.MinVersion, t.NextProtos = tls.RequireAndVerifyClientCert, tls.VersionTLS13, []string{"h2"}
		if b.Sandboxes != nil {
			t.NextProtos = append(t.NextProtos, "http/1.1")
		}
		door = tls.NewListener(door, introduced(t))
	}
	err := srv.Serve(door)
	if ctx.Err() != nil || errors.Is(err, errGone) {
		return nil
	}
	return err
}

// errGone ends the service of a broker whose only peer has gone.
var errGone = errors.New("broker: the worker has gone")

// greet returns how far secrets are kept from who connects, and who that is, or that it may not.
func (b *broker) greet(c net.Conn) (standing, []string, error) {
	if b.parent != nil {
		return *b.parent, nil, nil
	}
	if c, ok := c.(*net.UnixConn); ok {
		u, err := peer(c)
		if err == nil && !slices.Contains(b.Peers, uint32(u.uid)) {
			err = fmt.Errorf("user %d is not one of Config.Peers", u.uid)
		}
		if err != nil {
			return standing{}, nil, err
		}
		who := []string{fmt.Sprintf("process %d of user %d", u.pid, u.uid)}
		if len(b.Peers) > 1 {
			who = append(who, fmt.Sprintf("user %d", u.uid))
		}
		return b.stands(u), who, nil
	}
	return remote(c), []string{addressOf(c)}, nil
}

// only is the listener of a child, which has one connection.
type only struct {
	conn net.Conn
	gone chan struct{}
	once sync.Once
}

func (o *only) Accept() (net.Conn, error) {
	if c := o.conn; c != nil {
		o.conn = nil
		return rpc.Watch(c, func() { o.once.Do(func() { close(o.gone) }) }), nil
	}
	<-o.gone
	return nil, errGone
}

func (o *only) Close() error {
	o.once.Do(func() { close(o.gone) })
	return nil
}

func (o *only) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
