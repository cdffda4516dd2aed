package main

import (
	"errors"
	"net"
	"os"
	"sync"
)

// A wire is what connections go through, until something happens to it.
type wire struct {
	held chan struct{} // nothing passes any more
	over chan struct{} // every connection has ended, and there are no others
	hold func()
	end  func()
}

func newWire() *wire {
	w := &wire{held: make(chan struct{}), over: make(chan struct{})}
	w.hold = sync.OnceFunc(func() { close(w.held) })
	w.end = sync.OnceFunc(func() { close(w.over) })
	return w
}

// listen takes connections at a socket of this path, for the server that dial connects to.
func (w *wire) listen(path string, dial func() (net.Conn, error)) error {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, ln.Close())
	}
	go func() { <-w.over; _ = ln.Close() }()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			to, err := dial()
			if err != nil {
				c.Close()
				continue
			}
			w.join(c, to)
		}
	}()
	return nil
}

// join passes on what is said at either end.
func (w *wire) join(a, b net.Conn) {
	go w.pass(a, b)
	go w.pass(b, a)
	go func() { <-w.over; a.Close(); b.Close() }()
}

// pass copies. A wire that is held loses what is said, and that an end has gone.
func (w *wire) pass(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-w.held:
			if err != nil {
				return
			}
			continue
		default:
		}
		if n > 0 {
			if _, lost := to.Write(buf[:n]); err == nil {
				err = lost
			}
		}
		if err != nil {
			from.Close()
			to.Close()
			return
		}
	}
}
