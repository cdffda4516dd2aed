package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A socketDir is a directory of this host that has the socket of one sandbox's
// tool runner, by way of a subdirectory that the container shares. Others on
// the host cannot enter it, and once the socket is there the sandbox cannot
// write to it. The empty socketDir is the choice to use docker exec instead.
type socketDir string

const (
	socketDirInside = "/run/stepward"
	socketName      = "s"
	maxSocketPath   = 107 // of sockaddr_un
)

// The runner's socket when no directory is shared. A name of the abstract kind
// belongs to the container's network namespace, and cannot be taken away from
// the runner by other processes of its uid.
const socketAbstract = "@stepward"

func (d socketDir) shared() string  { return filepath.Join(string(d), "d") }
func (d socketDir) outside() string { return filepath.Join(d.shared(), socketName) }
func (d socketDir) inside() string {
	if d == "" {
		return socketAbstract
	}
	return socketDirInside + "/" + socketName
}

func (d socketDir) remove() {
	if d != "" {
		_ = os.RemoveAll(string(d))
	}
}

// close takes the sandbox's right to write to the directory.
func (d socketDir) close() error { return os.Chmod(d.shared(), 0o755) }

// socketRoot holds the directories of this user's sandboxes.
func socketRoot() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("stepward-sockets-%d", os.Getuid()))
}

// socketDir makes the directory for a sandbox. It returns "" where docker exec
// has to do.
func (b *Backend) socketDir(e *engine, id string) (socketDir, error) {
	b.mu.Lock()
	bind := e.bind
	b.mu.Unlock()
	if !bind {
		return "", nil
	}
	root := socketRoot()
	if err := os.Mkdir(root, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", nil
	}
	if !private(root) {
		return "", nil // someone else's, in a directory that all may write to
	}
	d := socketDir(filepath.Join(root, e.key+"-"+id))
	if len(d.outside()) > maxSocketPath {
		return "", nil
	}
	if err := os.Mkdir(string(d), 0o700); errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("sandbox: %s exists on backend docker", id)
	} else if err != nil {
		return "", nil //nolint:nilerr // without a folder the sandbox is dialled by exec
	}
	err := os.Mkdir(d.shared(), 0o777)
	if err == nil {
		err = os.Chmod(d.shared(), 0o777) // the sandbox's uid is not ours
	}
	if err != nil {
		d.remove()
		return "", fmt.Errorf("sandbox: make a directory for the tool runner's socket: %w", err)
	}
	return d, nil
}

func (b *Backend) forgetBind() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.engine != nil {
		b.engine.bind = false
	}
}

// sweepSockets removes directories whose sandbox has ended by itself. alive has
// the ids of all sandboxes of the engine.
func sweepSockets(e *engine, alive map[string]bool) {
	entries, err := os.ReadDir(socketRoot())
	if err != nil {
		return
	}
	for _, entry := range entries {
		id, ours := strings.CutPrefix(entry.Name(), e.key+"-")
		if !ours || alive[id] {
			continue
		}
		// Its container may be about to be made.
		if fi, err := entry.Info(); err == nil && time.Since(fi.ModTime()) > socketGrace {
			socketDir(filepath.Join(socketRoot(), entry.Name())).remove()
		}
	}
}

// socketGrace is shorter than the default of Creation.OrphanAfter, so that what
// an orphan leaves can go as soon as it has ended.
const socketGrace = 30 * time.Second

func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}
