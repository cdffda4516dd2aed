package egress

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
)

// What a program sends first.
type opening int

const (
	openingOther opening = iota
	openingTLS
	openingHTTP
)

// maxLine bounds the first line of a request.
const maxLine = 16 << 10

// recordHandshake begins every connection of TLS.
const recordHandshake = 0x16

var errLine = errors.New("its first line does not end")

// sniff reads as much as tells TLS and HTTP from the rest, and returns what it
// read. Line ends before a request count to it, since servers skip them. What
// ends before it can be told is judged by what there is.
func sniff(r io.Reader) (read []byte, kind opening, err error) {
	buf := make([]byte, 0, 2048)
	for {
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, len(buf))
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if len(buf) > 0 {
			if buf[0] == recordHandshake {
				return buf, openingTLS, nil
			}
			if kind, known := request(buf); known {
				return buf, kind, nil
			}
		}
		if errors.Is(err, io.EOF) {
			kind, _ = request(append(slices.Clip(buf), '\n'))
			return buf, kind, err
		}
		if err != nil {
			return buf, openingOther, err
		}
		if len(buf) > maxLine {
			return buf, openingOther, errLine
		}
	}
}

// request reports whether p begins with a request of HTTP, if that can be told.
func request(p []byte) (kind opening, known bool) {
	p = bytes.TrimLeft(p, "\r\n")
	method := bytes.IndexFunc(p, func(c rune) bool { return !tokenChar(c) })
	switch {
	case len(p) == 0 || method < 0 && len(p) < 64:
		return 0, false
	case method <= 0 || p[method] != ' ' && p[method] != '\t':
		return openingOther, true
	}
	line, _, ended := bytes.Cut(p, []byte("\n"))
	if !ended {
		return 0, false
	}
	if bytes.Contains(line, []byte("HTTP/")) || method > 0 && plainMethod(line[:method]) { // HTTP/0.9 names no version
		return openingHTTP, true
	}
	return openingOther, true
}

func plainMethod(m []byte) bool {
	switch string(m) {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
		return true
	}
	return false
}

func tokenChar(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c < 0x80 && bytes.ContainsRune([]byte("!#$%&'*+-.^_`|~"), c)
}

var errHello = errors.New("the client's hello was read")

// serverName reads the first message of a TLS client from r and returns all that
// it read, and the name of the server that it asks for.
func serverName(r io.Reader) (read []byte, name string, err error) {
	var all bytes.Buffer
	seen := false
	err = tls.Server(readOnly{Reader: io.TeeReader(r, &all)}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			seen, name = true, h.ServerName
			return nil, errHello
		},
	}).Handshake()
	if seen {
		return all.Bytes(), name, nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return all.Bytes(), "", fmt.Errorf("its TLS cannot be read: %w", err)
}

// readOnly is a connection that nothing can be written to.
type readOnly struct {
	net.Conn
	io.Reader
}

func (r readOnly) Read(p []byte) (int, error) { return r.Reader.Read(p) }
func (readOnly) Write(p []byte) (int, error)  { return 0, io.ErrClosedPipe }
