package tunnel

import (
	"io"
	"net"
	"sync"
	"time"
)

type halfCloser interface{ CloseWrite() error }

// Relay copies between two connections, each direction to its end, and closes
// both. It returns how many bytes went from a to b and from b to a.
func Relay(a, b net.Conn) (there, back int64) {
	var wg sync.WaitGroup
	wg.Go(func() { there = Copy(b, a) })
	wg.Go(func() { back = Copy(a, b) })
	wg.Wait()
	a.Close()
	b.Close()
	return there, back
}

// Copy copies from src to dst until src ends, and tells dst. When one of them
// fails, both are closed: the other direction is of no use any more.
func Copy(dst, src net.Conn) int64 {
	n, err := io.Copy(bare(dst), bare(src))
	if err == nil {
		if h, ok := bare(dst).(halfCloser); ok {
			_ = h.CloseWrite() // fails when dst has gone, which its other direction tells
			return n
		}
	}
	dst.Close()
	src.Close()
	return n
}

// finishing is how long who is on the other side of a connection may take to close it.
const finishing = 2 * time.Second

// Finish closes a connection so that what was written to it last arrives: after the other side has, or late. What it
// still sends is not looked at.
func Finish(c net.Conn) {
	h, ok := bare(c).(halfCloser)
	if ok && h.CloseWrite() == nil {
		late := time.AfterFunc(finishing, func() { c.Close() })
		_, _ = io.Copy(io.Discard, c) // ends with the connection
		late.Stop()
	}
	c.Close()
}

// buffer is how much a socket of a tunnel may hold, in bytes, if the system lets it.
const buffer = 4 << 20

// widen lets more bytes be under way, so that each side goes on for longer before
// it waits for the other.
func widen(c net.Conn) {
	if u, ok := bare(c).(*net.UnixConn); ok {
		_ = u.SetWriteBuffer(buffer) // as much as there may be
	}
}

// bare returns the connection behind those that have nothing to add to it, for
// the kernel to copy from and to.
func bare(c net.Conn) net.Conn {
	for {
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		inner := w.NetConn()
		if inner == nil {
			return c
		}
		c = inner
	}
}
