package broker

import (
	"context"
	"net"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/sandbox"
)

// Stands is what a user comes to, of the process status that it is of, at a broker with its key in a
// directory.
func Stands(dir string, uid int, status string) (identity.Level, string) {
	u := user{uid: uid}
	u.read(status)
	s := (&broker{Config: Config{Dir: dir}}).stands(u)
	return s.level, s.why
}

// StandsAt is what the peer of a unix connection comes to.
func StandsAt(dir string, c net.Conn) (identity.Level, string) {
	u, err := peer(c.(*net.UnixConn))
	if err != nil {
		return identity.L0, err.Error()
	}
	s := (&broker{Config: Config{Dir: dir}}).stands(u)
	return s.level, s.why
}

// StandsBeside is what a user comes to at a broker that makes sandboxes.
func StandsBeside(dir string, uid int, b sandbox.Backend) (identity.Level, string) {
	s := (&broker{Config: Config{Dir: dir, Sandboxes: b}}).stands(user{uid: uid})
	return s.level, s.why
}

// AttestBeside is what a sandbox that such a broker has made is told, with its own secret.
func AttestBeside(dir string, s sandbox.Backend) error {
	r, err := openRoot(dir)
	if err != nil {
		return err
	}
	l := (&broker{Config: Config{Dir: dir, Sandboxes: s}, root: r}).launched()
	return l.Attest(context.Background(), "box", l.witness("box").Secret)
}

// SetEngines has other sockets be those that make root, until the function that it returns is called.
func SetEngines(paths ...string) (restore func()) {
	was := engines
	engines = paths
	return func() { engines = was }
}
