//go:build unix

package filestore

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// private refuses a file that another user owns or may use.
func private(path string, info fs.FileInfo, want fs.FileMode) error {
	e := &ModeError{Path: path, Mode: info.Mode(), Want: want}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		e.owner = strconv.Itoa(int(stat.Uid))
	}
	if e.owner != "" || info.Mode().Perm()&^want != 0 {
		return e
	}
	return nil
}

// sync has what was renamed in a directory stay renamed.
func (d folder) sync(dir string) error {
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// tryLock reports whether it got the lock, which closing the file gives back.
func tryLock(f *os.File) (bool, error) {
	for {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
}
