package sandbox

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
)

// tarChunk is how much of a tar stream one message carries.
const tarChunk = 512 << 10

// DownloadOptions bounds what [Sandbox.Download] takes.
type DownloadOptions struct {
	MaxBytes int64 // of all files, holes included; defaults to 1 GiB
	MaxFiles int64 // and directories and links; defaults to 100000
	MaxDepth int64 // of directories; defaults to 100

	// Skip, if not nil, is told of an entry that is not taken: a device, a pipe, a
	// socket, a link that leads out of the tree. Without it the first is the error
	// of Download. A limit that is met always is.
	Skip func(*TreeError)
}

// A TreeError reports an entry of a tree that is not taken.
type TreeError struct {
	Path   string // in the tree
	Reason string
	Limit  string // the field of DownloadOptions that it would exceed
	Err    error
}

func (e *TreeError) Error() string {
	s := fmt.Sprintf("sandbox: tree entry %q: %s", e.Path, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *TreeError) Unwrap() error { return e.Err }

// Download copies the tree below the directory from, of the sandbox, to the
// directory to, of this host, as a stream. A relative from is below [Workspace].
// The directory to is made if it does not exist. A file of it is never replaced:
// one that is in the way is a [TreeError] that is [io/fs.ErrExist].
//
// What is in a sandbox is not to be trusted. Download makes regular files,
// directories, and symbolic links that lead to somewhere in the tree, of the names
// that they have, all owned by this process. It keeps permissions and times of files
// and of the directories that it makes, in which their owner may do everything all
// the same. It keeps no set-user-ID bit, owner, extended attribute or list of access
// rights, writes through no link, and decompresses nothing. Anything else is a
// TreeError. What was written before an error stays.
//
// Files may still hold what another program acts on: hooks of a .git directory,
// settings of tools. Do not run tools in a directory that came from a sandbox.
func (s *Sandbox) Download(ctx context.Context, from, to string, o DownloadOptions) error {
	fail := func(err error) error {
		return &fs.PathError{Op: "download", Path: from, Err: fileError(lost(ctx, err))}
	}
	if !utf8.ValidString(from) {
		return fail(errNotUTF8)
	}
	o.MaxBytes, o.MaxFiles, o.MaxDepth = cmp.Or(o.MaxBytes, 1<<30), cmp.Or(o.MaxFiles, 100_000), cmp.Or(o.MaxDepth, 100)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := s.data.get(ctx)
	if err != nil {
		return fail(err)
	}
	down, err := c.GetTree(ctx, connect.NewRequest(&rpc.GetTreeRequest{
		Path: absolute(from), MaxBytes: o.MaxBytes, MaxFiles: o.MaxFiles, MaxDepth: o.MaxDepth,
	}))
	if err != nil {
		return fail(err)
	}
	defer func() { _ = down.Close() }()
	r := &tarReceiver{down: down}
	u := unpacker{root: root, o: o, links: map[[32]byte]bool{}}
	err = u.unpack(tar.NewReader(r))
	var te *TreeError
	switch {
	case errors.As(err, &te):
		return te
	case r.err != nil && !errors.Is(r.err, io.EOF):
		return fail(r.err)
	case err != nil:
		return &fs.PathError{Op: "download", Path: from, Err: err}
	}
	return nil
}

// A tarReceiver is the stream of a tree. A stream that ends without its end is
// not the end of a tree: package tar tells them apart.
type tarReceiver struct {
	down *connect.ServerStreamForClient[rpc.Tar]
	rest []byte
	err  error
}

func (r *tarReceiver) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if !r.down.Receive() {
			r.err = cmp.Or(r.down.Err(), io.EOF)
			continue
		}
		r.rest = r.down.Msg().Data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// An unpacker makes the files of a tar stream that cannot be trusted.
type unpacker struct {
	root  *os.Root
	o     DownloadOptions
	files int64
	bytes int64
	links map[[32]byte]bool // hashes of the names of those that were made: nothing is made below them
	dirs  []unpackedDir     // that were made, each in the one before: what comes next may be in the last
	buf   []byte
}

// An unpackedDir gets its time when nothing more comes into it, which would change it.
type unpackedDir struct {
	name string
	time time.Time
}

func (u *unpacker) unpack(t *tar.Reader) error {
	u.buf = make([]byte, 256<<10)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return u.leave("")
		} else if err != nil {
			return err
		}
		err = u.entry(h, t)
		var te *TreeError
		if errors.As(err, &te) && te.Limit == "" && te.Err == nil && u.o.Skip != nil {
			u.o.Skip(te)
			continue
		}
		if err != nil {
			return err
		}
	}
}

// entry makes one entry of the tree.
func (u *unpacker) entry(h *tar.Header, t *tar.Reader) error {
	name := strings.TrimSuffix(h.Name, "/")
	refuse := func(reason string) error { return &TreeError{Path: name, Reason: reason} }
	failed := func(err error) error {
		if err == nil {
			return nil
		}
		return &TreeError{Path: name, Reason: "cannot be made", Err: err}
	}
	u.files++
	u.bytes += min(h.Size, math.MaxInt64-u.bytes)
	for _, l := range []struct {
		name       string
		value, max int64
	}{
		{"MaxFiles", u.files, u.o.MaxFiles}, {"MaxDepth", int64(strings.Count(name, "/") + 1), u.o.MaxDepth}, {"MaxBytes", u.bytes, u.o.MaxBytes},
	} {
		if l.value > l.max {
			return &TreeError{Path: name, Reason: fmt.Sprintf("the tree is over %s %d", l.name, l.max), Limit: l.name}
		}
	}
	if name == "" || name == "." || path.Clean(name) != name || strings.ContainsRune(name, 0) || !filepath.IsLocal(filepath.FromSlash(name)) {
		return refuse("is no name below the tree")
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if u.links[sha256.Sum256([]byte(dir))] {
			return refuse("is below a link")
		}
	}
	if err := u.leave(name); err != nil {
		return err
	}
	perm := fs.FileMode(h.Mode).Perm()
	switch h.Typeflag {
	case tar.TypeDir:
		return failed(u.dir(name, perm|0o700, h.ModTime))
	case tar.TypeReg:
		return failed(u.file(name, perm, h, t))
	case tar.TypeSymlink:
		if !inside(name, h.Linkname) {
			return refuse(fmt.Sprintf("is a symbolic link out of the tree, to %q", h.Linkname))
		}
		u.links[sha256.Sum256([]byte(name))] = true
		return failed(u.root.Symlink(h.Linkname, name))
	case tar.TypeLink:
		return refuse("is a hard link")
	case tar.TypeChar, tar.TypeBlock:
		return refuse("is a device")
	case tar.TypeFifo:
		return refuse("is a pipe or a socket")
	}
	return refuse(fmt.Sprintf("is of type %q", h.Typeflag))
}

// inside reports whether a link leads to somewhere in the tree, whatever other
// links of the tree its target leads over: it may go up only at its beginning,
// where what it is in are true directories.
func inside(name, target string) bool {
	if target == "" || path.IsAbs(target) || filepath.IsAbs(target) || filepath.VolumeName(target) != "" || strings.ContainsAny(target, "\x00\\") {
		return false
	}
	up, down := strings.Count(name, "/"), false
	for _, part := range strings.Split(target, "/") {
		switch {
		case part == "" || part == ".":
		case part != "..":
			down = true
		case down || up == 0:
			return false
		default:
			up--
		}
	}
	return true
}

func (u *unpacker) dir(name string, perm fs.FileMode, at time.Time) error {
	err := u.root.Mkdir(name, perm)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	made := err == nil
	info, err := u.root.Lstat(name)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fs.ErrExist
	case !made: // it was there, and stays what it is
		return nil
	}
	u.dirs = append(u.dirs, unpackedDir{name, at})
	if info.Mode().Perm() == perm || runtime.GOOS == "windows" {
		return nil
	}
	f, err := u.root.Open(name) // Root.Chmod needs a call that some containers refuse
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(info.Mode()&fs.ModeSetgid|perm), f.Close())
}

// leave is called before name is made, and leaves the directories that it is not in.
func (u *unpacker) leave(name string) error {
	for n := len(u.dirs) - 1; n >= 0 && !strings.HasPrefix(name, u.dirs[n].name+"/"); n-- {
		d := u.dirs[n]
		u.dirs = u.dirs[:n]
		if err := u.root.Chtimes(d.name, d.time, d.time); err != nil {
			return &TreeError{Path: d.name, Reason: "cannot be made", Err: err}
		}
	}
	return nil
}

func (u *unpacker) file(name string, perm fs.FileMode, h *tar.Header, t *tar.Reader) error {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, t, u.buf)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.root.Chtimes(name, h.ModTime, h.ModTime)
}

// Upload copies a tree of files to the directory to of the sandbox, as a stream,
// for example that of [os.DirFS]. A relative to is below [Workspace]; it is made,
// with its parents, if it does not exist. Files that are there are replaced.
// What is kept is what [Sandbox.Download] keeps; a symbolic link is copied as one, if the tree
// is an [io/fs.ReadLinkFS]. A device, pipe or socket is a [TreeError].
func (s *Sandbox) Upload(ctx context.Context, tree fs.FS, to string) error {
	fail := func(err error) error {
		return &fs.PathError{Op: "upload", Path: to, Err: fileError(lost(ctx, err))}
	}
	if !utf8.ValidString(to) {
		return fail(errNotUTF8)
	}
	s.claimed.Store(true)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := s.data.get(ctx)
	if err != nil {
		return fail(err)
	}
	up := &tarSender{up: c.PutTree(ctx)}
	err = up.up.Send(&rpc.PutTreeRequest{Path: absolute(to)})
	if err == nil {
		out := bufio.NewWriterSize(up, tarChunk)
		err = pack(tar.NewWriter(out), tree)
		err = cmp.Or(err, out.Flush())
	}
	if err != nil && !errors.Is(err, io.EOF) { // else the answer says what went wrong
		return err
	}
	if _, err := up.up.CloseAndReceive(); err != nil {
		return fail(err)
	}
	return nil
}

type tarSender struct {
	up *connect.ClientStreamForClient[rpc.PutTreeRequest, rpc.PutTreeResponse]
}

func (s *tarSender) Write(p []byte) (int, error) {
	return len(p), s.up.Send(&rpc.PutTreeRequest{Data: p})
}

// pack writes a tree to a tar stream.
func pack(t *tar.Writer, tree fs.FS) error {
	buf := make([]byte, 256<<10)
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Format: tar.FormatPAX}
		switch m := info.Mode(); {
		case m.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		case m&fs.ModeSymlink != 0:
			h.Typeflag = tar.TypeSymlink
			if h.Linkname, err = fs.ReadLink(tree, name); err != nil {
				return err
			}
		case m.IsRegular():
			return packFile(t, tree, h, buf)
		default:
			return &TreeError{Path: name, Reason: "is no file, directory or symbolic link"}
		}
		return t.WriteHeader(h)
	})
	return cmp.Or(err, t.Close())
}

func packFile(t *tar.Writer, tree fs.FS, h *tar.Header, buf []byte) error {
	f, err := tree.Open(h.Name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{t}, io.LimitReader(f, h.Size), buf)
	if err == nil && n < h.Size {
		err = &TreeError{Path: h.Name, Reason: "became shorter while it was read"}
	}
	return err
}
