package runner

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/tunnel"
)

// A redirect connects programs that know of no proxy. Their calls of connect wait
// for it: see confine.HoldConnects. What leads out of the sandbox it asks of the
// worker, as the proxy does, and it puts a connection to itself in the place of the
// program's socket. All else the kernel does as ever, which reaches nothing outside:
// there is no interface but loopback, or what there is is closed. So it is no matter
// that a program can change an address after it was looked at.
type redirect struct {
	tunnels *tunnels
	names   *names
	slots   chan struct{} // one for each connection that is being made

	mu    sync.Mutex
	given map[uint64]bool // inodes of the sockets that programs got
}

const (
	maxRedirects = 256

	// patience is how long a program waits that asked not to: nearly always an answer
	// comes sooner. Then it has its connection, which ends if none can be made.
	patience = time.Second
)

// redirects reports whether programs can be redirected here, names and all.
func redirects() bool {
	number := func(path string, otherwise int) int {
		raw, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return otherwise
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil {
			return 1 << 16
		}
		return n
	}
	switch {
	case number("/proc/sys/kernel/yama/ptrace_scope", 0) > 1: // nobody reads what a program connects to
	case number("/proc/sys/net/ipv4/ip_unprivileged_port_start", 1<<16) > portDNS:
	case !resolvesHere():
	default:
		return confine.HoldsConnects()
	}
	return false
}

func startRedirect(t *tunnels) (*redirect, error) {
	names, err := startNames()
	if err != nil {
		return nil, err
	}
	return &redirect{tunnels: t, names: names, slots: make(chan struct{}, maxRedirects), given: map[uint64]bool{}}, nil
}

// serve answers what the programs of one exec wait for, until the listener is
// closed.
func (r *redirect) serve(listener *os.File) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	raw, err := listener.SyscallConn()
	if err != nil {
		return
	}
	for {
		var h confine.Held
		var err error
		closed := raw.Read(func(fd uintptr) bool {
			h, err = confine.Next(int(fd))
			return !errors.Is(err, unix.EAGAIN)
		})
		switch {
		case closed != nil:
			return
		case err == nil: // else whose call it was has ended
			go r.answer(ctx, call{h, raw})
		}
	}
}

// answer answers one call. There are no more of them than threads that wait.
func (r *redirect) answer(ctx context.Context, c call) {
	to, s, ok := c.look()
	if !ok || r.gave(s.inode) {
		c.with(confine.Held.Proceed)
		return
	}
	var errno unix.Errno
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
		errno = r.connect(ctx, c, to, s)
	default:
		errno = unix.EAGAIN
	}
	c.with(func(h confine.Held, fd int) { h.Return(fd, errno) })
}

func (r *redirect) gave(inode uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.given[inode]
}

// connect gives the program a connection to an address.
func (r *redirect) connect(ctx context.Context, c call, to netip.AddrPort, s socket) unix.Errno {
	free, ok := r.tunnels.slot()
	if !ok {
		return unix.EAGAIN
	}
	ctx, cancel := context.WithCancel(ctx)
	host := to.Addr().String()
	if name, ok := r.names.of(to.Addr()); ok {
		host = name
	}
	var t net.Conn
	var err error
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		t, err = r.tunnels.open(ctx, host, int(to.Port()))
	}()
	var late <-chan time.Time
	if s.nonblock {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-opened:
		if err != nil {
			cancel()
			free()
			return refusal(err)
		}
	case <-late:
	}
	ours, inode, ferr := r.give(c, s)
	if ferr != nil { // it has ended, or there are no descriptors
		cancel()
		go func() {
			defer free()
			if <-opened; err == nil {
				t.Close()
			}
		}()
		return unix.EAGAIN
	}
	go func() {
		defer cancel()
		defer free()
		defer func() {
			r.mu.Lock()
			delete(r.given, inode)
			r.mu.Unlock()
		}()
		if <-opened; err != nil {
			_ = ours.SetLinger(0) // so that it is no end like another
			_ = ours.Close()
			return
		}
		tunnel.Relay(ours, t)
	}()
	return 0
}

// refusal is how connect says why there is no connection.
func refusal(err error) unix.Errno {
	var denied tunnel.DeniedError
	var failed tunnel.FailedError
	switch {
	case errors.As(err, &denied):
		return unix.EACCES
	case errors.As(err, &failed):
		return unix.ECONNREFUSED
	}
	return unix.ENETUNREACH
}

// give puts a connection in the place of the program's socket, and returns its other
// end.
func (r *redirect) give(c call, s socket) (ours *net.TCPConn, inode uint64, err error) {
	ours, theirs, err := connected(s)
	if err != nil {
		return nil, 0, err
	}
	defer unix.Close(theirs)
	var st unix.Stat_t
	if err = unix.Fstat(theirs, &st); err == nil {
		r.mu.Lock()
		r.given[st.Ino] = true
		r.mu.Unlock()
		err = unix.EBADF // unless it is called
		c.with(func(h confine.Held, fd int) { err = h.Replace(fd, theirs, s.cloexec) })
	}
	if err != nil {
		r.mu.Lock()
		delete(r.given, st.Ino)
		r.mu.Unlock()
		_ = ours.Close()
		return nil, 0, err
	}
	return ours, st.Ino, nil
}

// connected makes a connection to ourselves whose other end is like a program's
// socket. Nobody else gets between.
func connected(s socket) (ours *net.TCPConn, theirs int, err error) {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = ln.Close() }()
	port := ln.Addr().(*net.TCPAddr).Port
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	if s.six {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: [16]byte{10: 0xff, 0xff, 127, 0, 0, 1}}
	}
	if theirs, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			unix.Close(theirs)
		}
	}()
	if err = unix.Connect(theirs, to); err != nil {
		return nil, 0, err
	}
	own, err := unix.Getsockname(theirs)
	if err != nil {
		return nil, 0, err
	}
	_ = ln.SetDeadline(time.Now().Add(firstTimeout))
	for ours == nil {
		got, err := ln.AcceptTCP()
		if err != nil {
			return nil, 0, err
		}
		if sameAddr(got.RemoteAddr().(*net.TCPAddr).AddrPort(), own) {
			ours = got
		} else {
			_ = got.Close()
		}
	}
	if err = unix.SetNonblock(theirs, s.nonblock); err != nil {
		_ = ours.Close()
	}
	return ours, theirs, err
}

func sameAddr(a netip.AddrPort, b unix.Sockaddr) bool {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	switch b := b.(type) {
	case *unix.SockaddrInet4:
		return a == netip.AddrPortFrom(netip.AddrFrom4(b.Addr), uint16(b.Port))
	case *unix.SockaddrInet6:
		return a == netip.AddrPortFrom(netip.AddrFrom16(b.Addr).Unmap(), uint16(b.Port))
	}
	return false
}
