//go:build !linux

package broker

import (
	"errors"
	"net"
)

// peer is for Linux: elsewhere nobody is let in by a socket's path.
func peer(*net.UnixConn) (user, error) { return user{}, errors.ErrUnsupported }

func (user) writes(string) bool { return true }

func (user) opens(dir, _ string) string { return dir }
