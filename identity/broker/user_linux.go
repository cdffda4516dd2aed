package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// peer returns the user of a unix connection's other end. What the kernel does not say with the connection,
// groups and capabilities, is of the process that made it, if that can be seen from here, and is there still: by
// now its number may be another's.
func peer(c *net.UnixConn) (u user, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return u, err
	}
	var cred *unix.Ucred
	var process int
	var perr error
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		process, perr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	}); cerr != nil {
		return u, cerr
	}
	if perr == nil {
		defer func() { _ = unix.Close(process) }()
	}
	if err != nil {
		return u, err
	}
	u = user{pid: int(cred.Pid), uid: int(cred.Uid), groups: []int{int(cred.Gid)}}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cred.Pid))
	switch {
	case err != nil, perr == nil && ended(process), perr != nil && !errors.Is(perr, unix.ENOPROTOOPT): // which is Linux before 6.5
		u.unseen = true
	default:
		u.read(string(status))
	}
	return u, nil
}

// ended reports whether there is not, or may not be, the process of a descriptor any more.
func ended(process int) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0 || err != nil
		}
	}
}

// read adds what is in the status of a process.
func (u *user) read(status string) {
	for line := range strings.Lines(status) {
		name, rest, _ := strings.Cut(line, ":")
		switch name {
		case "Groups":
			for _, g := range strings.Fields(rest) {
				if id, err := strconv.Atoi(g); err == nil {
					u.groups = append(u.groups, id)
				}
			}
		case "CapPrm":
			u.caps, _ = strconv.ParseUint(strings.TrimSpace(rest), 16, 64)
		}
	}
}

// may reports whether the mode of a file lets a user do something: 4 is to read, 2 to write. The owner may
// change the mode.
func (u user) may(info fs.FileInfo, what fs.FileMode) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) == u.uid {
		return true
	}
	for _, g := range u.groups {
		if int(stat.Gid) == g {
			return info.Mode()>>3&what != 0
		}
	}
	return info.Mode()&what != 0
}

// writes reports whether a user may write to what is at a path.
func (u user) writes(path string) bool {
	info, err := os.Stat(path)
	return err == nil && u.may(info, 2)
}

// opens returns where a user could read a file of a directory, or put another in its place; empty: nowhere.
func (u user) opens(dir, name string) string {
	dir, err := filepath.EvalSymlinks(dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return dir
	}
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil || u.may(info, 4|2) {
		return path
	}
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil || u.may(info, 2) && (info.Mode()&fs.ModeSticky == 0 || info.Sys().(*syscall.Stat_t).Uid == uint32(u.uid)) {
			return at
		}
		if at == filepath.Dir(at) {
			return ""
		}
	}
}
