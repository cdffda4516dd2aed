package filestore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// A folder is a directory that nothing in it leads out of.
type folder struct {
	root *os.Root
	path string
}

// openFolder opens the directory of something.
func openFolder(dir, of string) (folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		err = fmt.Errorf("filestore: the directory of %s: %w", of, err)
	}
	return folder{root, dir}, err
}

func (d folder) join(name string) string { return filepath.Join(d.path, filepath.FromSlash(name)) }

// fail gives an error the whole path of a file, and says whose it is where that is why.
func (d folder) fail(op, name string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		if info, no := d.root.Stat(name); no == nil && info.Mode().IsRegular() {
			if mode := private(d.join(name), info, 0o600); mode != nil {
				return mode
			}
		}
	}
	var pathErr *fs.PathError
	var linkErr *os.LinkError
	switch {
	case errors.As(err, &pathErr):
		err = pathErr.Err
	case errors.As(err, &linkErr):
		err = linkErr.Err
	}
	return &fs.PathError{Op: op, Path: d.join(name), Err: err}
}

// read returns a file that only its owner can use, of limit bytes at most.
func (d folder) read(name string, limit int64) ([]byte, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, d.fail("stat", name, err)
	case !info.Mode().IsRegular():
		return nil, &CorruptError{d.join(name), "is not a file"}
	case info.Size() > limit:
		return nil, &CorruptError{d.join(name), "is too large"}
	}
	if err := private(d.join(name), info, 0o600); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, d.fail("read", name, err)
	}
	return data, nil
}

// write gives a file this content, and no reader ever another than the old or the
// new one. It is on disk when write returns.
func (d folder) write(name string, data []byte) (err error) {
	temp := path.Join(path.Dir(name), tempPrefix+rand.Text())
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return d.fail("create", name, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = d.root.Remove(temp) // or a later write does
			err = d.fail("write", name, err)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = d.root.Rename(temp, name); err != nil {
		return err
	}
	return d.sync(path.Dir(name))
}

const tempPrefix = ".new-"

// list returns the files in a directory; none if there is no such directory.
func (d folder) list(dir string) ([]string, error) {
	f, err := d.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, d.fail("open", dir, err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, d.fail("list", dir, err)
	}
	return names, nil
}

// sweep removes what a write that was cut off has left, and files that keep does not name.
func (d folder) sweep(dir string, keep func(name string) bool) error {
	names, err := d.list(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, tempPrefix) || !keep(name) {
			if err := d.root.Remove(path.Join(dir, name)); err != nil {
				return d.fail("remove", path.Join(dir, name), err)
			}
		}
	}
	return nil
}
