//go:build unix

package devdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A folder is the shared one, under a lock that ends with the process. The lock
// is on the folder itself, so nothing stays in it. Whoever empties it removes
// it, lock or not: what was true under the lock holds only as long as [folder.is].
type folder struct {
	dir string
	fd  int
}

// lockFolder makes the shared folder if need be, and locks it.
func lockFolder(ctx context.Context, dir string) (*folder, error) {
	for {
		fd, err := openFolder(dir)
		if err != nil {
			return nil, err
		}
		f := &folder{dir, fd}
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && f.is() {
			return f, nil
		}
		_ = unix.Close(fd)
		if err == nil || errors.Is(err, unix.EINTR) {
			continue
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &os.PathError{Op: "flock", Path: dir, Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// is reports whether the folder is still the one that its path names. If so, it
// was since it was locked, because a folder that was removed does not return.
func (f *folder) is() bool {
	var here, there unix.Stat_t
	return unix.Fstat(f.fd, &here) == nil && unix.Lstat(f.dir, &there) == nil && here.Dev == there.Dev && here.Ino == there.Ino
}

func (f *folder) unlock() {
	_ = unix.Rmdir(f.dir) // refused while a cluster is in it
	_ = unix.Close(f.fd)
}

// openFolder opens the shared folder, and checks that it is this user's alone:
// anybody may make a folder of that name in a temporary directory.
func openFolder(dir string) (fd int, err error) {
	for {
		if err := os.Mkdir(dir, 0o711); err != nil && !os.IsExist(err) {
			return -1, err
		}
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err == unix.ENOENT || err == unix.EINTR {
			continue // its last user has removed it in between
		}
		var stat unix.Stat_t
		if err == nil {
			err = unix.Fstat(fd, &stat)
		}
		if err == nil && (int(stat.Uid) != os.Getuid() || stat.Mode&0o022 != 0) {
			err = syscall.EPERM
		}
		if err == nil {
			err = unix.Fchmod(fd, 0o711) // the server's user passes through it, whatever the umask
		}
		if err != nil {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
			return -1, fmt.Errorf("%s is not a folder that only this user may write: %w", dir, err)
		}
		return fd, nil
	}
}
