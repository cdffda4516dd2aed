package docker

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/testenv"
)

// A worker that is interrupted while the engine makes a container does not leave
// it behind.
func TestCreateIsCanceled(t *testing.T) {
	b := backend(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	id := fmt.Sprintf("canceled-%d", os.Getpid())
	host, answered := proxy(t, b.config.Host, "containers/create?name="+containerName(id), cancel)
	through := New(Config{Host: host, Program: b.config.Program, Image: emptyImage})
	through.noBind = true            // or the engine may miss a folder that is gone already
	defer b.Destroy(t.Context(), id) // it should be gone
	if _, err := through.Create(ctx, creation(id)); err == nil || ctx.Err() == nil {
		t.Fatalf("a canceled Create: %v", err)
	}
	testenv.Receive(t, answered) // the engine has made it
	if listed, err := b.List(t.Context(), "life-"+id); err != nil || len(listed) != 0 {
		t.Errorf("a container stays: %+v, %v", listed, err)
	}
}

// proxy stands before an engine and calls seen when the engine has answered a
// request for path, before it passes the answer on: to a client that gives up for
// what seen does, never. answered is closed then.
func proxy(t *testing.T, host, path string, seen func()) (address string, answered <-chan struct{}) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "docker-proxy-") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	done := make(chan struct{})
	serve := func(in, out net.Conn) {
		var asked atomic.Bool
		gone := make(chan struct{})
		go func() {
			defer in.Close()
			buf := make([]byte, 1<<16)
			for {
				n, err := out.Read(buf)
				if err != nil {
					return
				}
				if asked.Load() {
					seen()
					select {
					case <-gone:
					case <-time.After(time.Second): // it has not given up
					}
					asked.Store(false)
					close(done)
				}
				_, _ = in.Write(buf[:n]) // nobody may be there any more
			}
		}()
		buf := make([]byte, 1<<16)
		for {
			n, err := in.Read(buf)
			if err != nil {
				close(gone)
				return
			}
			if bytes.Contains(buf[:n], []byte(path)) {
				asked.Store(true)
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", strings.TrimPrefix(host, "unix://"))
			if err != nil {
				t.Error(err)
				in.Close()
				return
			}
			t.Cleanup(func() { out.Close() })
			go serve(in, out)
		}
	}()
	return "unix://" + l.Addr().String(), done
}
