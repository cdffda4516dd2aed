package broker

import (
	"context"
	"net"
	"os"
	"slices"

	"github.com/stepward/stepward/identity"
)

// standing is how far secrets are kept from the peer of a connection.
type standing struct {
	level identity.Level
	why   string // it is no more
}

type standingKey struct{}

// standingOf returns that of the peer of a call.
func standingOf(ctx context.Context) standing {
	s, _ := ctx.Value(standingKey{}).(standing)
	return s
}

// user is the user of a process on this host.
type user struct {
	pid    int // 0: it is not seen from here
	uid    int
	groups []int
	caps   uint64 // that it may use
	unseen bool   // its groups and caps are not known
}

// stands returns how far a user, on the broker's host, is kept from it: one that can read its memory
// or its key, or become someone who can, is not.
func (b *broker) stands(u user) standing {
	dev := func(why string) standing { return standing{identity.L1Dev, why} }
	switch {
	case u.uid == 0:
		return dev("the worker runs as root")
	case u.uid == os.Geteuid():
		return dev("the worker runs as the broker's user")
	case u.unseen:
		return dev("the worker's process cannot be seen from here")
	case u.caps&^harmless != 0:
		return dev("the worker has capabilities, with which it could read what is the broker's")
	}
	if path := u.opens(b.Dir, rootFile); path != "" {
		return dev("the worker's user could read the broker's key, or put another in its place: see " + path)
	}
	if why := b.exposed(); why != "" {
		return dev("the worker may be able to become root: " + why)
	}
	for _, path := range append(slices.Clone(engines), b.engine()) {
		if path != "" && u.writes(path) {
			return dev("the worker may use " + path + ", and so become root")
		}
	}
	return standing{level: identity.L1}
}

// harmless are capabilities that open no files and no processes of others, nor what others say to each other: to
// bind a port, and to broadcast.
const harmless = 1<<10 | 1<<11

// engines are the sockets of those who make root of everyone that may use them.
var engines = []string{
	"/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock", "/run/crio/crio.sock",
	"/run/incus/unix.socket", "/var/lib/incus/unix.socket", "/var/lib/lxd/unix.socket", "/var/snap/lxd/common/lxd/unix.socket",
}

// remote is the standing of a peer with a certificate. TLS does not tell its user, who on this host may be
// the broker's.
func remote(c net.Conn) standing {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); !ok || a.IP.IsLoopback() || ours(a.IP, c.LocalAddr()) {
		return standing{identity.L1Dev, "the worker connects from the broker's own host by TLS, which does not tell its user: a unix socket does"}
	}
	return standing{level: identity.L1}
}

// ours reports whether an address is of this host.
func ours(ip net.IP, local net.Addr) bool {
	if a, ok := local.(*net.TCPAddr); ok && a.IP.Equal(ip) {
		return true
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true
		}
	}
	return false
}
