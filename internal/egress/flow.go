package egress

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stepward/stepward/internal/tunnel"
)

// Ports on which nothing but HTTP and TLS is let through: their servers are
// shared by many names.
const (
	portHTTP  = 80
	portHTTPS = 443
)

// run moves the bytes of a flow. It returns how many, and why it was ended if
// what the program sent is not for the host that it went to.
func (f *flow) run() (sent, received int64, denied string) {
	if f.host.addr.IsValid() { // the address was allowed, whatever is served there
		sent, received = tunnel.Relay(f.client, f.upstream)
		return sent, received, ""
	}
	back := f.back() // a server may speak first
	read, kind, err := sniff(f.client)
	switch {
	case errors.Is(err, errLine):
		denied = err.Error()
	case err != nil && !errors.Is(err, io.EOF): // the program has gone, or was sent away
		f.upstream.Close()
		return 0, back.wait(), ""
	case kind == openingTLS:
		if read, denied = f.checkTLS(read); denied != "" {
			_, _ = f.client.Write(alert) // or the program has gone
		}
	case f.routed:
		denied = "a secret is bound to this host, which is reached by HTTPS only"
		if kind == openingHTTP {
			_, _ = fmt.Fprintf(f.client, "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: %d\r\n\r\nstepward: not allowed: %s\n", len(denied)+len("stepward: not allowed: \n"), denied)
		}
	case kind == openingHTTP:
		if back.interrupt() {
			return f.serveHTTP(read)
		}
		denied = "the server spoke before a request of HTTP"
	case len(read) > 0 && (f.port == portHTTP || f.port == portHTTPS):
		denied = "on ports 80 and 443 only HTTP and TLS are let through"
	}
	if denied == "" {
		_, err = f.upstream.Write(read)
	}
	if denied != "" || err != nil {
		tunnel.Finish(f.client) // first: without a server it is closed as it is
		f.upstream.Close()
		return 0, back.wait(), denied
	}
	sent = int64(len(read)) + tunnel.Copy(f.upstream, f.client)
	return sent, back.wait(), ""
}

// alert is how a server of TLS says that it does not serve a name.
var alert = []byte{0x15, 3, 3, 0, 2, 2, 112}

// checkTLS reads the first message of TLS, which begins with read.
func (f *flow) checkTLS(read []byte) (all []byte, denied string) {
	all, name, err := serverName(io.MultiReader(strings.NewReader(string(read)), f.client))
	switch {
	case err != nil:
		return nil, err.Error()
	case name == "":
		return nil, "its TLS names no server (SNI)"
	case !strings.EqualFold(name, f.host.name):
		return nil, "its TLS is for another server: " + shown(name)
	}
	return all, ""
}

// backward is what copies from the server to the program.
type backward struct {
	f     *flow
	spoke atomic.Bool
	first chan struct{} // closed when the server has spoken, or its time is over
	done  chan struct{}
	n     int64
}

func (f *flow) back() *backward {
	b := &backward{f: f, first: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(b.done)
		first := make([]byte, 4<<10)
		n, err := f.upstream.Read(first)
		b.spoke.Store(!errors.Is(err, os.ErrDeadlineExceeded))
		close(b.first)
		if !b.spoke.Load() {
			return
		}
		if n > 0 {
			n, err = f.client.Write(first[:n])
			b.n = int64(n)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			f.client.Close()
			f.upstream.Close()
			return
		}
		b.n += tunnel.Copy(f.client, f.upstream) // which meets the same end, if there was one
	}()
	return b
}

func (b *backward) wait() int64 {
	<-b.done
	return b.n
}

// interrupt stops the copying, unless the server has spoken.
func (b *backward) interrupt() bool {
	_ = b.f.upstream.SetReadDeadline(time.Unix(1, 0))
	<-b.first
	_ = b.f.upstream.SetReadDeadline(time.Time{})
	return !b.spoke.Load()
}
