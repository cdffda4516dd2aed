package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/redact"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/tunnel"
)

// Inject implements rpcconnect.BrokerHandler.
func (s service) Inject(ctx context.Context, stream *connect.BidiStream[rpc.InjectRequest, rpc.InjectResponse]) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	c, err := claimed(first.Claim)
	if err != nil {
		return wire(err)
	}
	i, err := s.b.injection(ctx, c, first.Endpoint)
	if err != nil {
		return wire(err)
	}
	defer i.leave()
	ch, err := i.connect(first.Endpoint)
	if err != nil {
		return wire(err)
	}
	return ch.carry(stream.Receive, stream.Send)
}

// carry has the channel served, and passes on what comes and goes, until either ends.
func (c *channel) carry(receive func() (*rpc.InjectRequest, error), send func(*rpc.InjectResponse) error) error {
	go c.serve()
	defer c.close() // waits for it
	if err := send(&rpc.InjectResponse{}); err != nil {
		return err
	}
	go func() {
		defer c.cut()
		for {
			m, err := receive()
			if err != nil {
				return
			}
			if _, err := c.near.Write(m.Data); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := c.near.Read(buf)
		if n > 0 {
			if err := send(&rpc.InjectResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

// requestFailed answers a request that the host has not answered.
func requestFailed(w http.ResponseWriter, _ *http.Request, err error) {
	code := http.StatusBadGateway
	var denied tunnel.DeniedError
	if errors.As(err, &denied) {
		code = http.StatusForbidden
	}
	w.Header().Set("Connection", "close")
	http.Error(w, "stepward: the request has no answer: "+failure(err), code)
}

// ServeHTTP passes a request on, with what it is to have.
func (c *channel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, port := splitEndpoint(c.endpoint)
	host, p, given := strings.Cut(strings.ToLower(r.Host), ":")
	switch {
	case strings.TrimSuffix(host, ".") != name, given && p != strconv.Itoa(port):
		refuseRequest(w, http.StatusMisdirectedRequest, "the request is for another host")
		return
	case r.Method == http.MethodConnect, r.URL.Host != "" && !strings.EqualFold(r.URL.Host, r.Host):
		refuseRequest(w, http.StatusMisdirectedRequest, "the request is for a proxy")
		return
	case r.Header.Get("Upgrade") != "":
		refuseRequest(w, http.StatusNotImplemented, "a secret is bound to this host, whose answers are looked through: no upgrade")
		return
	}
	spent, err := c.i.swap(r.Header, c.endpoint)
	for _, name := range spent {
		if err == nil {
			err = c.i.spend(r.Context(), name, c.endpoint)
		}
	}
	if len(spent) > 0 { // a part of a value would not be known in the answer
		r.Header.Del("Range")
		r.Header.Del("If-Range")
	}
	switch {
	case errors.Is(err, errRate):
		w.Header().Set("Retry-After", "1")
		refuseRequest(w, http.StatusTooManyRequests, "the run uses its secrets too often")
		return
	case err != nil:
		refuseRequest(w, http.StatusServiceUnavailable, "the secret cannot be used now")
		return
	}
	r.Host = name
	if port != 443 {
		r.Host = c.endpoint
	}
	r.URL.Scheme, r.URL.Host = "https", c.endpoint
	r.Header.Set("Accept-Encoding", "identity") // what is compressed cannot be looked through
	c.forward.ServeHTTP(w, r)
}

func refuseRequest(w http.ResponseWriter, code int, why string) {
	w.Header().Set("Connection", "close")
	http.Error(w, "stepward: "+why, code)
}

// headerOf returns the header that a value is put into.
func headerOf(i *identity.Inject) string { return cmp.Or(i.Header, "Authorization") }

// swap puts values in the place of placeholders, and returns whose. None was sent yet.
func (i *injection) swap(h http.Header, endpoint string) (spent []string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended != nil {
		return nil, i.ended
	}
	for _, k := range i.keys {
		if !slices.Contains(k.endpoints, endpoint) {
			continue
		}
		values := h.Values(headerOf(k.Inject))
		for n, v := range values {
			if out, ok := swapped(v, k.placeholder, string(k.value)); ok {
				values[n] = out
				if !slices.Contains(spent, k.Name) {
					spent = append(spent, k.Name)
				}
			}
		}
	}
	return spent, nil
}

// swapped returns a header with the value where it has the placeholder for its credential.
func swapped(header, placeholder, value string) (string, bool) {
	if header == placeholder {
		return value, true
	}
	scheme, credential, ok := strings.Cut(header, " ")
	if !ok {
		return "", false
	}
	credential = strings.TrimLeft(credential, " ")
	if credential == placeholder {
		return scheme + " " + value, true
	}
	if !strings.EqualFold(scheme, "Basic") {
		return "", false
	}
	raw, err := base64.StdEncoding.DecodeString(credential)
	if err != nil {
		return "", false
	}
	user, password, ok := strings.Cut(string(raw), ":")
	switch {
	case !ok:
		return "", false
	case password == placeholder:
		password = value
	case user == placeholder && !strings.Contains(value, ":"):
		user = value
	default:
		return "", false
	}
	return scheme + " " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)), true
}

// Answers that cannot be looked through.
var (
	errUpgrades   = errors.New("the host upgrades the connection")
	errCompresses = errors.New("the host compresses its answer, which then cannot be looked through")
)

// clean takes the values out of an answer.
func (i *injection) clean(r *http.Response) error {
	if r.StatusCode == http.StatusSwitchingProtocols {
		return errUpgrades
	}
	if e := strings.Join(r.Header.Values("Content-Encoding"), ","); e != "" && !strings.EqualFold(e, "identity") && r.ContentLength != 0 && r.Request.Method != http.MethodHead {
		return errCompresses
	}
	i.cleanHeader(r.Header)
	if r.Body == nil || r.Body == http.NoBody || r.Request.Method == http.MethodHead || r.ContentLength == 0 {
		return nil
	}
	r.Header.Del("Content-Length")
	r.ContentLength = -1
	b := &cleanBody{from: r.Body, trailer: func() { i.cleanHeader(r.Trailer) }}
	b.through = i.set.Writer(&b.out)
	r.Body = b
	return nil
}

func (i *injection) cleanHeader(h http.Header) {
	for name, values := range h {
		if i.set.Redact(name) != name {
			delete(h, name)
			continue
		}
		for n, v := range values {
			values[n] = i.set.Redact(v)
		}
	}
}

// A cleanBody is the body of an answer without the values. It holds back what may be the beginning of one.
type cleanBody struct {
	from    io.ReadCloser
	through *redact.Writer
	out     buffer
	trailer func()
	err     error
}

type buffer struct{ b []byte }

func (b *buffer) Write(p []byte) (int, error) {
	b.b = append(b.b, p...)
	return len(p), nil
}

func (c *cleanBody) Read(p []byte) (int, error) {
	for len(c.out.b) == 0 && c.err == nil {
		in := make([]byte, 32<<10)
		n, err := c.from.Read(in)
		_, werr := c.through.Write(in[:n])
		if c.err = errors.Join(err, werr); errors.Is(err, io.EOF) && werr == nil {
			c.trailer()
			c.err = io.EOF
			if err := c.through.Close(); err != nil {
				c.err = err
			}
		}
	}
	n := copy(p, c.out.b)
	c.out.b = c.out.b[n:]
	if n > 0 {
		return n, nil
	}
	return 0, c.err
}

func (c *cleanBody) Close() error { return c.from.Close() }

// early keeps answers that come before the answer: they would not be looked through.
type early struct{ http.RoundTripper }

func (e early) RoundTrip(r *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(r.Context())
	if trace != nil {
		trace.Got1xxResponse = nil
	}
	return e.RoundTripper.RoundTrip(r)
}

func splitEndpoint(e string) (name string, port int) {
	name, text, _ := strings.Cut(e, ":")
	port, _ = strconv.Atoi(text)
	return name, port
}

// failure is why a host has not answered, in words that have nothing of the request, nor of what the host sent: errors
// of net/http quote answers that are malformed, and those of crypto/x509 certificates.
func failure(err error) string {
	var denied tunnel.DeniedError
	var op *net.OpError
	switch {
	case errors.As(err, &denied):
		return string(denied)
	case errors.Is(err, context.Canceled):
		return "it was cut off"
	case errors.As(err, &op):
		return fmt.Sprintf("%s: %v", op.Op, op.Err)
	case errors.Is(err, errUpgrades), errors.Is(err, errCompresses):
		return err.Error()
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return "the certificate of the host is not trusted"
	}
	return "the host cannot be reached, or its answer is malformed"
}
