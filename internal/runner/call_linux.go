package runner

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
)

// A call is one of connect, by a program that waits for its answer.
type call struct {
	held     confine.Held
	listener syscall.RawConn
}

// A socket is what a program connects.
type socket struct {
	inode    uint64
	six      bool // of IPv6
	nonblock bool
	cloexec  bool
}

// with does something with the call, unless the exec is over.
func (c call) with(do func(h confine.Held, listener int)) {
	_ = c.listener.Control(func(fd uintptr) { do(c.held, int(fd)) })
}

// look returns where a call leads to, if that is out of the sandbox and by TCP. What
// cannot be read, such as a guest, is not.
func (c call) look() (to netip.AddrPort, s socket, ok bool) {
	to, ok = c.address()
	if !ok || to.Port() == 0 || to.Addr().IsLoopback() || to.Addr().IsUnspecified() {
		return to, s, false
	}
	if s, ok = c.socket(); !ok {
		return to, s, false
	}
	ok = false
	c.with(func(h confine.Held, fd int) { ok = h.Waits(fd) }) // so all of it was the caller's
	return to, s, ok
}

// address reads the address, once.
func (c call) address() (to netip.AddrPort, ok bool) {
	var raw [unix.SizeofSockaddrInet6]byte
	n := min(c.held.Args[2], uint64(len(raw)))
	if n < unix.SizeofSockaddrInet4 {
		return to, false
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", c.held.PID))
	if err != nil {
		return to, false
	}
	defer mem.Close()
	if _, err := mem.ReadAt(raw[:n], int64(c.held.Args[1])); err != nil {
		return to, false
	}
	port := binary.BigEndian.Uint16(raw[2:])
	switch binary.NativeEndian.Uint16(raw[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), port), true
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[8:24])).Unmap(), port), n >= 24
	}
	return to, false
}

// socket tells what the descriptor is.
func (c call) socket() (s socket, ok bool) {
	fd := strconv.Itoa(int(int32(c.held.Args[0])))
	dir := fmt.Sprintf("/proc/%d/", c.held.PID)
	var st unix.Stat_t
	if err := unix.Stat(dir+"fd/"+fd, &st); err != nil {
		return s, false
	}
	s.inode = st.Ino
	var protocol [16]byte
	n, err := unix.Getxattr(dir+"fd/"+fd, "system.sockprotoname", protocol[:])
	if err != nil {
		return s, false
	}
	switch strings.TrimRight(string(protocol[:n]), "\x00") {
	case "TCP", "MPTCP":
	case "TCPv6", "MPTCPv6":
		s.six = true
	default:
		return s, false
	}
	info, err := os.ReadFile(dir + "fdinfo/" + fd)
	if err != nil {
		return s, false
	}
	for line := range strings.Lines(string(info)) {
		if v, found := strings.CutPrefix(line, "flags:"); found {
			flags, err := strconv.ParseUint(strings.TrimSpace(v), 8, 64)
			s.nonblock, s.cloexec = flags&unix.O_NONBLOCK != 0, flags&unix.O_CLOEXEC != 0
			return s, err == nil
		}
	}
	return s, false
}
