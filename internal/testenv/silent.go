package testenv

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Silent listens before an engine, at a socket of the network "unix" or "tcp", and passes on what is said until somebody
// says what, or fall is called. From then on it takes connections, and nothing is answered any more; heard is closed.
func Silent(t testing.TB, network, engine, what string) (host string, heard <-chan struct{}, fall func()) {
	t.Helper()
	at := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("/tmp", "silent-") // short: it holds a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		at = filepath.Join(dir, "s")
	}
	l, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	silent := make(chan struct{})
	fall = sync.OnceFunc(func() { close(silent) })
	over, end := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { end(); _ = l.Close(); all.Wait() })
	pass := func(from, to net.Conn, what []byte) {
		defer to.Close()
		buf := make([]byte, 1<<16)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if what != nil && bytes.Contains(buf[:n], what) {
				fall()
			}
			select {
			case <-silent:
				<-over.Done()
				return
			default:
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", strings.TrimPrefix(engine, "unix://"))
			if err != nil {
				in.Close()
				t.Error(err)
				return
			}
			context.AfterFunc(over, func() { in.Close(); out.Close() })
			all.Go(func() { pass(in, out, []byte(what)) })
			all.Go(func() { pass(out, in, nil) })
		}
	})
	return network + "://" + l.Addr().String(), silent, fall
}
