package broker

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/launch"
)

var hallFor = 5 * time.Second // who has no place among the workers goes; tests have other times

// doorman lets in who may connect, and not too many at a time.
type doorman struct {
	net.Listener
	b       *broker
	unknown bool        // who connects says who it is by TLS
	low     atomic.Bool // it was told that the level is
	full    atomic.Bool // and that somebody was sent away
}

func (d *doorman) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		at, who, err := d.b.greet(c)
		if err != nil {
			d.b.Logger.Warn("a connection was refused", "error", err)
			c.Close()
			continue
		}
		if at.level < identity.L1 && !d.low.Swap(true) {
			d.b.Logger.Warn("the level of what is issued is "+at.level.String(), "reason", at.why)
		}
		v := &visitor{Conn: c, standing: at, d: d}
		if !d.unknown && v.enter(who) || v.wait(who) {
			return v, nil
		}
		c.Close()
	}
}

// tell has it logged, once, that somebody is sent away.
func (d *doorman) tell(err error) {
	if !d.full.Swap(true) {
		d.b.Logger.Warn("a connection was refused", "error", err)
	}
}

// A visitor is a connection to the broker: with a place among the workers, or for a short time in the hall. There it says
// who it is, or hears that there is no place for it.
type visitor struct {
	net.Conn
	standing
	d *doorman

	mu     sync.Mutex
	closed bool
	who    []string // whose share of the workers' places it is of
	free   func()
	late   *time.Timer // ends it while it is in the hall
	err    error       // why it has no place
}

// wait takes a place in the hall.
func (v *visitor) wait(who []string) bool {
	free, err := v.d.b.hall.take(who...)
	if err != nil {
		v.d.tell(err)
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.free = free
	v.late = time.AfterFunc(hallFor, func() {
		v.mu.Lock()
		waits := v.late != nil
		v.mu.Unlock()
		if waits {
			_ = v.Close() // or it has gone
		}
	})
	return true
}

// enter takes a place among the workers. If there is none, what is asked over the connection is answered with that.
func (v *visitor) enter(who []string) bool {
	err := v.sit(&v.d.b.conns, who)
	if err != nil {
		v.d.tell(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.who, v.err = who, err
	return err == nil
}

// sit takes a place, and gives back the one that it has.
func (v *visitor) sit(among *places, who []string) error {
	free, err := among.take(who...)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		free()
		return net.ErrClosed
	}
	if v.late != nil {
		v.late.Stop()
		v.late = nil
	}
	if v.free != nil {
		v.free()
	}
	v.free = free
	return nil
}

func (v *visitor) Close() error {
	v.mu.Lock()
	v.closed = true
	if v.late != nil {
		v.late.Stop()
	}
	free := v.free
	v.mu.Unlock()
	if free != nil {
		free()
	}
	return v.Conn.Close()
}

func (v *visitor) shares() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.who
}

// refused is why it has no place among the workers; nil: it has.
func (v *visitor) refused() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// introduced is a configuration by which visitors take their places when TLS tells who they are.
func introduced(t *tls.Config) *tls.Config {
	of := t.GetConfigForClient
	t.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		v, ok := h.Conn.(*visitor)
		if !ok {
			return nil, errors.New("broker: a connection came in by another door")
		}
		own := t
		if of != nil {
			if c, err := of(h); err != nil {
				return nil, err
			} else if c != nil {
				own = c
			}
		}
		own = own.Clone()
		own.ClientAuth, own.MinVersion, own.NextProtos = t.ClientAuth, t.MinVersion, t.NextProtos
		if own.ClientCAs == nil { // which stands for whom the system trusts
			own.ClientCAs = t.ClientCAs
		}
		verify := own.VerifyConnection
		own.VerifyConnection = func(s tls.ConnectionState) error {
			if verify != nil {
				if err := verify(s); err != nil {
					return err
				}
			}
			sum := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
			v.enter([]string{fmt.Sprintf("certificate %x at %s", sum[:4], addressOf(v.Conn))}) // or it hears why not
			return nil
		}
		return own, nil
	}
	return t
}

// addressOf is where a connection is from: of version 6 the network, as a host has a whole one.
func addressOf(c net.Conn) string {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return "another host"
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	if !ok {
		return "another host"
	}
	if ip = ip.Unmap(); ip.Is6() {
		p, _ := ip.Prefix(64) // has always that many bits
		return p.String()
	}
	return ip.String()
}

type visitorKey struct{}

// visitorOf returns the connection of a call; nil: it came by none of a doorman's.
func visitorOf(ctx context.Context) *visitor {
	v, _ := ctx.Value(visitorKey{}).(*visitor)
	return v
}

// seated tells visitors without a place why, and serves the others.
func seated(rest http.Handler) http.Handler {
	refuse := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := visitorOf(r.Context())
		if v == nil || v.refused() == nil {
			rest.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close")
		if strings.HasPrefix(r.URL.Path, launch.Path) {
			launch.Refuse(w, v.refused())
			return
		}
		_ = refuse.Write(w, r, wire(v.refused())) // or it has gone
	})
}

// sharing has a worker make no more calls at a time than are left for others, as each needs Postgres: else the renewals of the
// others would come too late.
func (b *broker) sharing() connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			var who []string
			if v := visitorOf(ctx); v != nil {
				who = v.shares()
			}
			free, err := b.calls.take(who...)
			if err != nil {
				return nil, wire(err)
			}
			defer free()
			return next(ctx, r)
		}
	}
}

// tenantShare is whose share the places are of what belongs to a tenant.
func tenantShare(tenant string) string {
	if tenant == "" {
		return "what has no tenant"
	}
	return "tenant " + tenant
}
