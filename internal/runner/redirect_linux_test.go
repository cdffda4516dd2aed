package runner

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
)

// An address that changes while it is looked at leads a program past a check whose
// answer is that the kernel may connect; which is why no such answer is a permission
// here. TestEgress has the same program meet the redirect.
func TestFlippedAddress(t *testing.T) {
	if !confine.HoldsConnects() {
		t.Fatal("this kernel holds no connections: Linux 5.19 is needed")
	}
	allowed, denied := listenLocal(t), listenLocal(t)
	var reached atomic.Int64
	go func() {
		for {
			c, err := denied.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			c.Close()
		}
	}()
	var addr unix.RawSockaddrInet4
	addr.Family, addr.Addr = unix.AF_INET, [4]byte{127, 0, 0, 1}
	port := (*[2]byte)(unsafe.Pointer(&addr.Port))
	word := (*uint32)(unsafe.Pointer(&addr)) // family and port
	at := func(ln net.Listener) uint32 {
		p := netip.MustParseAddrPort(ln.Addr().String()).Port()
		*port = [2]byte{byte(p >> 8), byte(p)}
		return *word
	}
	bad, good := at(denied), at(allowed)
	listener, over := make(chan *os.File, 1), make(chan struct{})
	go func() { // the program
		runtime.LockOSThread() // and never unlock: the thread ends with its filter
		defer close(over)
		fd, err := confine.HoldConnects()
		if err != nil {
			t.Error(err)
			close(listener)
			return
		}
		_ = unix.SetNonblock(fd, true)
		listener <- os.NewFile(uintptr(fd), "listener")
		for reached.Load() == 0 {
			s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			_, _, _ = unix.Syscall(unix.SYS_CONNECT, uintptr(s), uintptr(unsafe.Pointer(&addr)), unsafe.Sizeof(addr))
			unix.Close(s)
		}
	}()
	l, ok := <-listener
	if !ok {
		return
	}
	go func() { // its other thread
		for {
			select {
			case <-over:
				return
			default:
				atomic.StoreUint32(word, bad)
				atomic.StoreUint32(word, good)
			}
		}
	}()
	go func() { // a check as it must not be
		<-over
		l.Close()
	}()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	want := netip.MustParseAddrPort(allowed.Addr().String())
	for {
		var h confine.Held
		var err error
		if closed := raw.Read(func(fd uintptr) bool {
			h, err = confine.Next(int(fd))
			return !errors.Is(err, unix.EAGAIN)
		}); closed != nil {
			break
		}
		if err != nil {
			continue
		}
		c := call{h, raw}
		if to, ok := c.address(); ok && to == want {
			c.with(confine.Held.Proceed)
		} else {
			c.with(func(h confine.Held, fd int) { h.Return(fd, unix.EACCES) })
		}
	}
	if reached.Load() == 0 {
		t.Error("the check held: then the attack shows nothing")
	}
}

func listenLocal(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// A program's socket is replaced by one of its kind, connected to ours and nobody
// else's.
func TestConnected(t *testing.T) {
	for _, s := range []socket{{}, {six: true}, {nonblock: true}} {
		ours, theirs, err := connected(s)
		if err != nil {
			t.Fatal(err)
		}
		name, err := unix.Getsockname(theirs)
		if err != nil || !sameAddr(ours.RemoteAddr().(*net.TCPAddr).AddrPort(), name) {
			t.Errorf("%+v: %v is connected to %v, %v", s, ours.RemoteAddr(), name, err)
		}
		if _, six := name.(*unix.SockaddrInet6); six != s.six {
			t.Errorf("%+v: of the other family: %T", s, name)
		}
		if flags, _ := unix.FcntlInt(uintptr(theirs), unix.F_GETFL, 0); (flags&unix.O_NONBLOCK != 0) != s.nonblock {
			t.Errorf("%+v: flags %x", s, flags)
		}
		ours.Close()
		unix.Close(theirs)
	}
}
