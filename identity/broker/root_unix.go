//go:build unix

package broker

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

const lax = false // modes of files say who may read them

// owned reports whether a file is the broker's own.
func owned(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return !ok || int(stat.Uid) == os.Geteuid()
}

// syncDir has what was made in a directory stay there.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
