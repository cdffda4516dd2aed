package runner

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/stepward/stepward/internal/tunnel"
)

// RFC 1928.
const (
	socksVersion = 5

	socksNoAuth       = 0
	socksNoMethod     = 0xff
	socksConnect      = 1
	socksIPv4         = 1
	socksName         = 3
	socksIPv6         = 4
	socksOK           = 0
	socksFailure      = 1
	socksDenied       = 2
	socksUnreachable  = 4
	socksNoCommand    = 7
	socksNoAddressing = 8
)

// socks serves one connection.
func (p *proxy) socks(c net.Conn) {
	defer func() { _ = c.Close() }()
	_ = c.SetReadDeadline(time.Now().Add(firstTimeout))
	host, port, code, err := socksRequest(c)
	if err != nil {
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	var t net.Conn
	if code == socksOK {
		var denied tunnel.DeniedError
		var failed tunnel.FailedError
		t, err = p.tunnels.open(context.Background(), host, port)
		switch {
		case errors.As(err, &denied):
			code = socksDenied
		case errors.As(err, &failed):
			code = socksUnreachable
		case err != nil:
			code = socksFailure
		}
	}
	if _, err := c.Write([]byte{socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0}); err != nil || code != socksOK {
		if t != nil {
			t.Close()
		}
		return
	}
	tunnel.Relay(c, t)
}

// socksRequest reads what a program asks for. code says what is wrong with it.
func socksRequest(c io.ReadWriter) (host string, port int, code byte, err error) {
	var buf [255]byte
	read := func(n int) []byte {
		if err == nil {
			_, err = io.ReadFull(c, buf[:n])
		}
		return buf[:n]
	}
	methods := read(int(read(2)[1]))
	method := byte(socksNoMethod)
	for _, m := range methods {
		if m == socksNoAuth {
			method = socksNoAuth
		}
	}
	if err == nil {
		_, err = c.Write([]byte{socksVersion, method})
	}
	if err == nil && method == socksNoMethod {
		err = errors.New("it insists on a user")
	}
	head := read(4)
	if err != nil {
		return "", 0, 0, err
	}
	if head[1] != socksConnect {
		code = socksNoCommand
	}
	switch head[3] {
	case socksIPv4:
		host = netip.AddrFrom4([4]byte(read(4))).String()
	case socksIPv6:
		host = netip.AddrFrom16([16]byte(read(16))).String()
	case socksName:
		host = string(read(int(read(1)[0])))
	default:
		return "", 0, socksNoAddressing, nil
	}
	port = int(binary.BigEndian.Uint16(read(2)))
	return host, port, code, err
}
