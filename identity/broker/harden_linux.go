package broker

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
)

// harden keeps others of the broker's user out of its memory.
func harden() error {
	if err := confine.Harden(); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	return nil
}

// peer returns the user of a unix connection's other end.
func peer(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

const lax = false // modes of files say who may read them
