package tunnel

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"
)

// Transport returns one that connects by dial, and asks in the second version of
// HTTP, without TLS, or else in the first.
func Transport(dial func(ctx context.Context, network, addr string) (net.Conn, error), two bool) *http.Transport {
	var p http.Protocols
	p.SetHTTP1(!two)
	p.SetUnencryptedHTTP2(two)
	return &http.Transport{
		Protocols: &p, DialContext: dial, DisableCompression: true,
		IdleConnTimeout: 90 * time.Second, MaxIdleConns: 16, MaxIdleConnsPerHost: 4,
		WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
	}
}

// Forward returns a handler that sends each request, as it is, to where its URL
// says.
func Forward(t http.RoundTripper, failed func(http.ResponseWriter, *http.Request, error)) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport: t, ErrorHandler: failed, FlushInterval: -1, BufferPool: &buffers,
		ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			// The package takes these away, for the sake of servers that believe them.
			for _, k := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := r.In.Header[k]; ok {
					r.Out.Header[k] = v
				}
			}
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			r.Out.Host = r.In.Host
		},
	}
}

// bufferPool has the buffers by which bodies are copied.
type bufferPool struct{ sync.Pool }

var buffers = bufferPool{sync.Pool{New: func() any { return make([]byte, 128<<10) }}}

func (b *bufferPool) Get() []byte  { return b.Pool.Get().([]byte) }
func (b *bufferPool) Put(p []byte) { b.Pool.Put(p) } //nolint:staticcheck // 24 bytes, beside 128 KiB
