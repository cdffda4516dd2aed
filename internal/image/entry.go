package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// entry applies one entry of a layer.
func (u *unpacker) entry(h *tar.Header, t *tar.Reader) error {
	cost := h.Size + entryCost + int64(len(h.Name)+len(h.Linkname))
	if h.Size < 0 || cost > u.left {
		return u.over()
	}
	u.left -= cost
	if slices.Contains(strings.Split(h.Name, "/"), "..") {
		return errors.New("its name leads elsewhere")
	}
	name := clean(h.Name)
	if name == "" {
		return nil // what the root is like is not the image's choice
	}
	dir, err := u.dir(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	at := path.Join(dir, base)
	if hidden, ok := strings.CutPrefix(base, whiteout); ok {
		switch {
		case base == opaque:
			return u.hide(dir)
		case strings.HasPrefix(hidden, whiteout):
			return nil // notes of aufs to itself
		case hidden == "" || hidden == "." || hidden == "..":
			return errors.New("it hides no file")
		}
		return u.hide(path.Join(dir, hidden))
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("it is of type %q", h.Typeflag)
	}
	old, err := u.root.Lstat(at)
	if err == nil && (!old.IsDir() || h.Typeflag != tar.TypeDir) {
		if h.Typeflag == tar.TypeLink && u.same(at, h.Linkname) {
			return nil
		}
		err = u.remove(at)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for up := at; !u.mine[up]; up = path.Dir(up) {
		u.mine[up] = true
	}
	switch h.Typeflag {
	case tar.TypeDir:
		u.dirs[at] = attr{u.rights(h), h.ModTime}
		if old == nil {
			err = u.root.Mkdir(at, 0o700)
		} else {
			err = nil
		}
	case tar.TypeSymlink:
		err = u.root.Symlink(h.Linkname, at)
	case tar.TypeLink:
		err = u.link(h.Linkname, at)
	default:
		err = u.write(h, t, at)
	}
	return err
}

// rights returns the rights that everybody gets: those of the owner's id in the
// image, but for writing, which nobody can do.
func (u *unpacker) rights(h *tar.Header) fs.FileMode {
	m := h.Mode
	switch u.owner {
	case h.Uid:
		m >>= 6
	case h.Gid:
		m >>= 3
	}
	return fs.FileMode(m&5) * 0o111
}

func (u *unpacker) write(h *tar.Header, t *tar.Reader, at string) error {
	f, err := u.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, t, u.buf)
	if err == nil {
		err = f.Chmod(u.rights(h))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.root.Chtimes(at, h.ModTime, h.ModTime)
}

// link makes a hard link.
func (u *unpacker) link(to, at string) error {
	from, err := u.linked(to)
	if err != nil {
		return err
	}
	if info, err := u.root.Lstat(from); err != nil {
		return fmt.Errorf("it is a link to %q: %w", to, err)
	} else if info.IsDir() {
		return fmt.Errorf("it is a link to %q, a directory", to)
	}
	return u.root.Link(from, at)
}

// linked returns the true path of what a hard link leads to.
func (u *unpacker) linked(to string) (string, error) {
	if slices.Contains(strings.Split(to, "/"), "..") || clean(to) == "" {
		return "", fmt.Errorf("it is a link to %q, which leads elsewhere", to)
	}
	dir, err := u.dir(path.Dir(clean(to)))
	return path.Join(dir, path.Base(clean(to))), err
}

// same reports whether a hard link leads to itself, which must not remove it.
func (u *unpacker) same(at, to string) bool {
	from, err := u.linked(to)
	return err == nil && from == at
}

// hide removes what layers below have at a path.
func (u *unpacker) hide(at string) error {
	if !u.mine[at] {
		return u.remove(at)
	}
	info, err := u.root.Lstat(at)
	if err != nil || !info.IsDir() {
		return nil //nolint:nilerr // nothing there is of another layer
	}
	d, err := u.root.Open(at)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	for _, name := range names {
		err = errors.Join(err, u.hide(path.Join(at, name)))
	}
	return err
}

func (u *unpacker) remove(at string) error {
	clear(u.parent)
	return u.root.RemoveAll(at)
}
