// Package launcher makes sandboxes by way of a broker that owns the engine which makes them, so that a worker that
// may not use that engine, and so cannot look into them, has them all the same: level L2 of package identity.
//
// The broker is one with sandboxes of its own (Sandboxes of broker.Config, or brokerd -docker). It decides what a
// sandbox is, and which program serves in it and runs guest steps; the worker has the connection to that program, as
// with any other backend. Its sandboxes outlive the worker and the broker that made them: other workers dial them by
// any broker of the same engine and installation. When a broker ends, or is killed, connections through it break, and are made
// again by the one that is started in its place: what runs goes on. If none is in Config.Patience, the sandbox is lost to its
// attempts, and ends by itself.
package launcher

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/launch"
	"github.com/stepward/stepward/sandbox"
)

// Name is the name of this backend. [sandbox.Enforcement] has the name of the backend behind it.
const Name = launch.Name

// Config configures [New].
type Config struct {
	Broker string      // as in worker.Config: unix:///path or https://host:port; required
	TLS    *tls.Config // for the latter, with the worker's certificate

	// Patience is how long a call waits for a broker that is away. What runs in a sandbox counts as lost after the third in a row.
	// Defaults to 15 seconds, which is what a sandbox with secrets goes on for without a broker.
	Patience time.Duration
}

// Backend makes sandboxes by way of a broker. It is safe for concurrent use.
type Backend struct {
	dial     func(ctx context.Context) (net.Conn, error)
	web      *http.Client
	patience time.Duration
}

var _ sandbox.Backend = (*Backend)(nil)

// New returns a backend, or an error if the address can be no broker's. It talks to nothing yet.
func New(c Config) (*Backend, error) {
	link, err := brokerlink.New(c.Broker, c.TLS) // for what is wrong with the address
	if err != nil {
		return nil, fmt.Errorf("launcher: Config.Broker: %w", err)
	}
	link.Close()
	u, err := url.Parse(c.Broker)
	if err != nil {
		return nil, err
	}
	b := &Backend{patience: cmp.Or(c.Patience, 15*time.Second), dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", u.Path)
	}}
	if u.Scheme == "https" {
		t := c.TLS.Clone()
		t.NextProtos = []string{"http/1.1"}
		address := u.Host
		if u.Port() == "" {
			address = net.JoinHostPort(u.Hostname(), "443")
		}
		b.dial = func(ctx context.Context) (net.Conn, error) {
			return (&tls.Dialer{Config: t}).DialContext(ctx, "tcp", address)
		}
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return b.dial(ctx) }
	b.web = &http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 8}}
	return b, nil
}

// Close gives up the connections to the broker that wait for another use.
func (b *Backend) Close() error {
	b.web.CloseIdleConnections()
	return nil
}

// Name returns "launcher".
func (*Backend) Name() string { return Name }

// Probe returns what the backend behind the broker finds out.
func (b *Backend) Probe(ctx context.Context) (sandbox.Capabilities, error) {
	out, err := b.call(ctx, "Probe", launch.Request{})
	if err != nil {
		if _, ok := errors.AsType[*sandbox.UnavailableError](err); !ok && ctx.Err() == nil {
			err = &sandbox.UnavailableError{Backend: Name, Reason: "the broker makes no sandboxes: is it one with Sandboxes (brokerd -docker)?", Err: err}
		}
		return sandbox.Capabilities{}, err
	}
	if out.Capabilities == nil {
		return sandbox.Capabilities{}, errors.New("sandbox: the launcher says nothing of what it can")
	}
	return *out.Capabilities, nil
}

// Create has the broker make a sandbox.
func (b *Backend) Create(ctx context.Context, c sandbox.Creation) (sandbox.Enforcement, error) {
	out, err := b.call(ctx, "Create", launch.Request{Creation: &c})
	if err != nil {
		return sandbox.Enforcement{}, err
	}
	if out.Enforcement == nil {
		return sandbox.Enforcement{}, errors.New("sandbox: the launcher does not say what it has enforced")
	}
	return *out.Enforcement, nil
}

// List returns the sandboxes of an installation.
func (b *Backend) List(ctx context.Context, schema string) ([]sandbox.Listed, error) {
	out, err := b.call(ctx, "List", launch.Request{Schema: schema})
	return out.Listed, err
}

// Destroy has the broker end a sandbox.
func (b *Backend) Destroy(ctx context.Context, id string) error {
	_, err := b.call(ctx, "Destroy", launch.Request{ID: id})
	return err
}

// maxAnswer bounds what a broker may answer.
const maxAnswer = 64 << 20

func (b *Backend) call(ctx context.Context, name string, in launch.Request) (out launch.Response, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return out, err
	}
	err = b.patiently(ctx, name, func() (err error) {
		out, err = b.once(ctx, name, body)
		return err
	})
	return out, err
}

// patiently calls f again while the broker is away.
func (b *Backend) patiently(ctx context.Context, name string, f func() error) error {
	until := time.Now().Add(b.patience)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := f()
		if err == nil || !again(name, err) || ctx.Err() != nil || time.Now().Add(pause).After(until) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// brokenError is what became of a call that has no answer.
type brokenError struct {
	name string
	err  error
}

func (e *brokenError) Error() string {
	return fmt.Sprintf("sandbox: ask the launcher to %s: %v", e.name, e.err)
}

func (e *brokenError) Unwrap() error { return e.err }

// again reports whether a call that broke is to be made again. Probe finds out what there is now, and a sandbox that may have been
// made is not asked for twice: if it was, nobody connects to it, and it ends.
func again(name string, err error) bool {
	if _, broken := errors.AsType[*brokenError](err); !broken || name == "Probe" {
		return false
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial" || name != "Create"
}

func (b *Backend) once(ctx context.Context, name string, body []byte) (out launch.Response, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://launcher"+launch.Path+name, bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	res, err := b.web.Do(req)
	if err != nil {
		return out, &brokenError{name, err}
	}
	defer res.Body.Close()
	return read(name, res)
}

func read(name string, res *http.Response) (out launch.Response, err error) {
	if res.StatusCode != http.StatusOK {
		return out, fmt.Errorf("sandbox: ask the launcher to %s: it says %s", name, res.Status)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&out); err != nil {
		return out, &brokenError{name, err}
	}
	return out, out.Failure.Err()
}

// Dial connects to the tool runner of a sandbox, through the broker.
func (b *Backend) Dial(ctx context.Context, id string) (c net.Conn, err error) {
	err = b.patiently(ctx, "Dial", func() (err error) {
		c, err = b.connect(ctx, id)
		return err
	})
	return c, err
}

func (b *Backend) connect(ctx context.Context, id string) (net.Conn, error) {
	c, err := b.dial(ctx)
	if err != nil {
		return nil, &brokenError{"Dial", err}
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	r, err := upgrade(c, id)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	return &conn{c, r}, nil
}

// upgrade makes a new connection to the broker one to a sandbox. What follows comes from the reader.
func upgrade(c net.Conn, id string) (*bufio.Reader, error) {
	req, err := http.NewRequest(http.MethodGet, "http://launcher"+launch.Path+"Dial?id="+url.QueryEscape(id), nil) //nolint:noctx // Dial ends it
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", launch.Protocol)
	if err := req.Write(c); err != nil {
		return nil, &brokenError{"Dial", err}
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, &brokenError{"Dial", err}
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return r, nil
	}
	defer res.Body.Close()
	if _, err := read("Dial", res); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("sandbox: dial %s: no connection", id)
}

// conn is a connection of which the beginning may have been read.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func (c *conn) Read(p []byte) (int, error) { return c.r.Read(p) }
