package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/nsroot"
)

// A Cache keeps unpacked images in a directory, which processes may share. For each
// there is a tree, whose name has the image's ID and which is complete when it is
// there, and a lock: who unpacks has it alone, who uses the tree shares it.
type Cache struct {
	Dir string // made if it does not exist, for its owner only
	Max int64  // bytes of one image
}

const (
	// version is part of each name. It changes with what unpacking makes of an image.
	version = "1"

	lockSuffix, partSuffix = ".lock", ".part"

	// keep is how long a tree stays that nobody uses.
	keep = 30 * 24 * time.Hour

	// lockPause is how long to wait before trying again for what another one unpacks.
	lockPause = 50 * time.Millisecond
)

// A Root is the tree of an image, in use until it is closed.
type Root struct {
	Path string
	lock *os.File
}

// Close says that the tree is not used any more.
func (r *Root) Close() error { return r.lock.Close() }

// Has reports whether a path leads to a file in the tree.
func (r *Root) Has(name string) bool {
	root, err := os.OpenRoot(r.Path)
	if err != nil {
		return false
	}
	defer root.Close()
	for range maxLinks {
		dir, err := resolve(root, filepath.Dir(name), func(string) error { return fs.ErrNotExist })
		if err != nil {
			return false
		}
		at := filepath.Join(dir, filepath.Base(name))
		info, err := root.Lstat(at)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			return err == nil && info.Mode().IsRegular()
		}
		to, err := root.Readlink(at)
		if err != nil {
			return false
		}
		if name = to; !filepath.IsAbs(to) {
			name = dir + "/" + to
		}
	}
	return false
}

// Root returns the tree of an image, which it unpacks first if there is none. Errors
// of the image are an [*Error], and leave nothing.
func (c Cache) Root(ctx context.Context, i *Image) (*Root, error) {
	if err := c.prepare(); err != nil {
		return nil, err
	}
	path := filepath.Join(c.Dir, version+"-"+i.ID.Algorithm().String()+"-"+i.ID.Encoded())
	for {
		r, err := use(path)
		if err == nil && r == nil {
			err = c.make(ctx, i, path)
		}
		if r != nil || err != nil && !errors.Is(err, errLocked) {
			return r, err
		}
		if err == nil {
			continue
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// prepare makes the directory. Who else could write to it could write to the root
// of every sandbox.
func (c Cache) prepare() error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return bad(err, "the directory of unpacked images cannot be made")
	}
	var st unix.Stat_t
	if err := unix.Stat(c.Dir, &st); err != nil {
		return bad(err, "the directory of unpacked images, %s", c.Dir)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return bad(nil, "the directory of unpacked images, %s, can be written to by others than this user", c.Dir)
	}
	return nil
}

// use returns a tree that is there: nil if there is none.
func use(path string) (*Root, error) {
	f, err := lock(path+lockSuffix, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); err != nil {
		f.Close()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, bad(err, "the unpacked image")
	}
	now := time.Now()
	_ = os.Chtimes(f.Name(), now, now) // or it is unpacked once more some day
	return &Root{path, f}, nil
}

// make unpacks an image, unless another one did.
func (c Cache) make(ctx context.Context, i *Image, path string) error {
	f, err := lock(path+lockSuffix, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	c.sweep()
	part := path + partSuffix // this process has the lock: what is there is of one that died
	if err := removeTree(part); err != nil {
		return bad(err, "what an earlier process left of it cannot be removed")
	}
	err = unpackTo(ctx, i, part, c.Max)
	if err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return errors.Join(err, removeTree(part))
	}
	return nil
}

func unpackTo(ctx context.Context, i *Image, part string, most int64) error {
	if err := os.Mkdir(part, 0o700); err != nil {
		return bad(err, "cannot be unpacked")
	}
	root, err := os.OpenRoot(part)
	if err != nil {
		return bad(err, "cannot be unpacked")
	}
	defer root.Close()
	if err := unpack(ctx, i, root, nsroot.UID, most); err != nil {
		return err
	}
	// The name says that all of it is there, also after a loss of power.
	d, err := os.Open(part)
	if err == nil {
		err = unix.Syncfs(int(d.Fd()))
		d.Close()
	}
	if err != nil {
		return bad(err, "cannot be unpacked")
	}
	return nil
}

// sweep removes what processes that died have not finished, and what nobody has used
// for long. A lock that can be had says that nobody is at it.
func (c Cache) sweep() {
	locks, _ := filepath.Glob(filepath.Join(c.Dir, "*"+lockSuffix))
	for _, name := range locks {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		path := strings.TrimSuffix(name, lockSuffix)
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = removeTree(path + partSuffix)
			if info, err := f.Stat(); err == nil && time.Since(info.ModTime()) > keep {
				// The lock stays: who waits for it has it open.
				if os.Rename(path, path+partSuffix) == nil {
					_ = removeTree(path + partSuffix)
				}
			}
		}
		f.Close()
	}
}

// removeTree removes a tree whose directories may be closed to their owner.
func removeTree(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	_ = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(name, 0o700) // before it is read
		}
		return nil
	})
	return os.RemoveAll(path)
}

// errLocked says that another one has a lock.
var errLocked = errors.New("locked")

// lock takes a lock, which ends with the file. Nobody waits for one: who uses a tree
// keeps it for long, and who has waited may find that there is a tree by now.
func lock(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, bad(err, "cannot be unpacked")
	}
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, bad(err, "the lock of the unpacked image")
}
