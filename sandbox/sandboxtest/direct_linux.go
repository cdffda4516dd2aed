package sandboxtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// direct is what a program does that knows of no proxy. It prints what became of it.
func direct(verb string, args []string) (known bool) {
	switch verb {
	case "direct": // what to connect to, what to ask for there
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			fmt.Print(err)
			break
		}
		fmt.Print(ask(c, args[1]))
	case "resolve": // a name
		addrs, err := net.LookupHost(args[0])
		fmt.Print(addrs, err)
	case "raw": // what to connect to, and how: "block", "six", "poll" or "late"
		fmt.Print(rawConnect(netip.MustParseAddrPort(args[0]), args[1]))
	case "flip": // an address, another, how often
		n, _ := strconv.Atoi(args[2])
		fmt.Print(flip(netip.MustParseAddrPort(args[0]), netip.MustParseAddrPort(args[1]), n))
	default:
		return false
	}
	return true
}

// rawConnect connects without a library's help, and asks for something.
func rawConnect(to netip.AddrPort, how string) string {
	family, kind := unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC
	addr := unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	switch how {
	case "six":
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	case "poll", "late":
		kind |= unix.SOCK_NONBLOCK
	}
	fd, err := unix.Socket(family, kind, 0)
	if err != nil {
		return err.Error()
	}
	err = unix.Connect(fd, addr)
	if how == "late" {
		fmt.Println("connected:", err)
	}
	if how == "poll" {
		if err == nil || errors.Is(err, unix.EINPROGRESS) {
			err = writable(fd)
		}
		if err == nil { // as programs ask whether they are connected
			if again := unix.Connect(fd, addr); again != unix.EISCONN {
				return fmt.Sprint("connected twice: ", again)
			}
		}
	}
	if err != nil {
		return err.Error()
	}
	flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	fdFlags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if (flags&unix.O_NONBLOCK != 0) != (how == "poll" || how == "late") || fdFlags&unix.FD_CLOEXEC == 0 {
		return fmt.Sprintf("other flags: %x %x", flags, fdFlags)
	}
	f := os.NewFile(uintptr(fd), "socket")
	c, err := net.FileConn(f)
	if err != nil {
		return err.Error()
	}
	f.Close()
	return ask(c, "raw")
}

// writable waits for a connection.
func writable(fd int) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(ep)
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT}); err != nil {
		return err
	}
	for {
		if n, err := unix.EpollWait(ep, make([]unix.EpollEvent, 1), -1); n == 1 {
			break
		} else if err != nil && err != unix.EINTR {
			return err
		}
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	return err
}

// flip connects to an address that another thread changes all the time.
func flip(a, b netip.AddrPort, n int) string {
	var raw [unix.SizeofSockaddrInet4]byte
	binary.NativeEndian.PutUint16(raw[:], unix.AF_INET)
	binary.BigEndian.PutUint16(raw[2:], a.Port())
	four := (*uint32)(unsafe.Pointer(&raw[4]))
	one, other := a.Addr().As4(), b.Addr().As4()
	atomic.StoreUint32(four, binary.NativeEndian.Uint32(one[:]))
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				atomic.StoreUint32(four, binary.NativeEndian.Uint32(other[:]))
				atomic.StoreUint32(four, binary.NativeEndian.Uint32(one[:]))
			}
		}
	}()
	defer close(stop)
	got := map[unix.Errno]int{}
	deadline := time.Now().Add(time.Minute)
	for done := 0; done < n || (got[0] == 0 || got[unix.EACCES] == 0) && time.Now().Before(deadline); done++ {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err.Error()
		}
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw[0])), uintptr(len(raw)))
		got[errno]++
		unix.Close(fd)
	}
	return fmt.Sprintf("connected: %t, refused: %t: %v", got[0] > 0, got[unix.EACCES] > 0, got)
}
