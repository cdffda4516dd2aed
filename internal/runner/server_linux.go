package runner

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
	"github.com/stepward/stepward/internal/tunnel"
)

// helloTimeout is how long a connection may stay without a Hello.
const helloTimeout = 10 * time.Second

// errOrphan ends a runner that no worker has been connected to for too long.
var errOrphan = errors.New("no worker was connected for too long")

// errLapsed ends a runner that has secrets which must not be used any more.
var errLapsed = errors.New("its secrets were not renewed, or have been revoked")

// errLater refuses a connection.
var errLater = errors.New("a later epoch is connected")

// A server is the tool runner of one sandbox.
type server struct {
	cfg     config
	execs   *execs
	tunnels *tunnels
	orphan  chan struct{}
	lapsed  chan struct{}
	spare   sync.Once

	mu     sync.Mutex
	epoch  int64
	conns  map[*conn]bool
	authed int
	timer  *time.Timer
}

// A conn is one connection. It is trusted once it said Hello.
type conn struct {
	net.Conn
	s      *server
	hello  *time.Timer
	authed bool // under s.mu, as is epoch
	epoch  int64
	once   sync.Once
}

func newServer(cfg config) *server {
	s := &server{cfg: cfg, tunnels: newTunnels(cfg.redirect), conns: map[*conn]bool{}, orphan: make(chan struct{})}
	s.execs = newExecs(cfg, s.landlockABI(), s.tunnels.environ)
	s.execs.redirecting = s.tunnels.redirecting
	s.execs.secrets.dial = s.tunnels.open
	s.lapsed = make(chan struct{})
	s.execs.secrets.leash.end = sync.OnceFunc(func() { close(s.lapsed) })
	s.execs.secrets.leash.freeze = func(frozen bool) {
		s.tunnels.setClosed(frozen)
		s.execs.setFrozen(frozen)
	}
	return s
}

func (s *server) landlockABI() int {
	if !s.cfg.landlock {
		return 0
	}
	return confine.Landlock()
}

// serve answers the connections of ln until gone is closed, ln fails, or the
// sandbox is an orphan. All processes are started from the goroutine that called
// it, whose thread may hold less than the others.
func (s *server) serve(ln net.Listener, gone <-chan struct{}) error {
	s.execs.warm()
	go s.execs.prepare()
	if s.cfg.orphanAfter > 0 {
		s.mu.Lock()
		s.timer = time.AfterFunc(s.cfg.orphanAfter, func() { close(s.orphan) })
		s.mu.Unlock()
	}
	_, handler := rpcconnect.NewRunnerHandler(service{s}, s.options()...)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	p.SetHTTP1(true) // a tunnel begins with it
	srv := &http.Server{
		Handler:   s.gate(handler),
		Protocols: &p,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 1024,
			MaxReadFrameSize:     1 << 20,
			SendPingTimeout:      15 * time.Second,
			PingTimeout:          15 * time.Second,
		},
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(&listener{ln, s}) }()
	for {
		select {
		case start := <-s.execs.starts:
			start()
		case err := <-served:
			return err
		case <-gone:
			return nil
		case <-s.orphan:
			return errOrphan
		case <-s.lapsed:
			return errLapsed
		}
	}
}

// A listener makes a conn of every connection.
type listener struct {
	net.Listener
	s *server
}

func (l *listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, s: l.s}
	c.hello = time.AfterFunc(helloTimeout, func() { _ = c.Close() })
	l.s.mu.Lock()
	l.s.conns[c] = true
	l.s.mu.Unlock()
	return c, nil
}

// Close closes the connection. The last trusted one starts the orphan's clock.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.hello.Stop()
		s := c.s
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
		if c.authed {
			s.authed--
			if s.authed == 0 && s.timer != nil {
				s.timer.Reset(s.cfg.orphanAfter)
			}
		}
	})
	return c.Conn.Close()
}

// NetConn returns the connection itself, for what only moves bytes.
func (c *conn) NetConn() net.Conn { return c.Conn }

type connKey struct{}

// gate lets nothing through before Hello.
func (s *server) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(connKey{}).(*conn)
		if c == nil {
			return
		}
		if r.URL.Path == tunnel.Path {
			s.tunnel(w, r, c)
			return
		}
		s.mu.Lock()
		ok := c.authed
		s.mu.Unlock()
		if !ok && r.URL.Path != rpcconnect.RunnerHelloProcedure {
			_ = c.Close()
			return
		}
		next.ServeHTTP(w, r)
	})
}

// service implements the calls.
type service struct{ *server }

func (s service) Hello(ctx context.Context, req *connect.Request[rpc.HelloRequest]) (*connect.Response[rpc.HelloResponse], error) {
	c := ctx.Value(connKey{}).(*conn)
	later, err := s.admit(c, req.Msg.Token, req.Msg.Epoch)
	if err != nil {
		_ = c.Close()
		return nil, connect.NewError(connect.CodeUnauthenticated, err)
	}
	if later {
		s.execs.forsake(ctx, req.Msg.Epoch)
	}
	if req.Msg.Spare {
		s.spare.Do(func() { go s.execs.startSpare() })
	}
	return connect.NewResponse(&rpc.HelloResponse{
		Protocol: rpc.Protocol, Landlock: int32(s.landlockABI()), Seccomp: s.cfg.seccomp,
		NoNewPrivs: true, Capabilities: holdsCapabilities(), Transparent: s.cfg.redirect,
	}), nil
}

// admit trusts a connection that has the token. Those of lower epochs are closed. One
// that is trusted already, and raises its epoch, takes along those which had the same:
// they are of one worker, which has claimed the sandbox for a run. Any other that raises
// it is of a worker that goes on with the sandbox: later.
func (s *server) admit(c *conn, token []byte, epoch int64) (later bool, err error) {
	hash := sha256.Sum256(token)
	if subtle.ConstantTimeCompare(hash[:], s.cfg.tokenHash[:]) != 1 {
		return false, errors.New("wrong token")
	}
	s.mu.Lock()
	if epoch < s.epoch || !s.conns[c] {
		s.mu.Unlock()
		return false, errLater
	}
	if c.authed {
		for o := range s.conns {
			if o.authed && o.epoch == c.epoch && o != c {
				o.epoch = epoch
			}
		}
	}
	later = !c.authed && epoch > s.epoch
	s.epoch = epoch
	var stale []*conn
	for o := range s.conns {
		if o.authed && o.epoch < s.epoch && o != c {
			stale = append(stale, o)
		}
	}
	if !c.authed {
		c.authed = true
		s.authed++
	}
	c.epoch = s.epoch
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	c.hello.Stop()
	for _, o := range stale {
		_ = o.Close()
	}
	return later, nil
}
