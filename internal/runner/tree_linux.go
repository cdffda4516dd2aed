package runner

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/rpc"
)

// tarChunk is how much of a tar stream one message carries.
const tarChunk = 512 << 10

func (s service) GetTree(ctx context.Context, req *connect.Request[rpc.GetTreeRequest], stream *connect.ServerStream[rpc.Tar]) error {
	r, rel, err := root(req.Msg.Path)
	if err != nil {
		return coded(err)
	}
	defer r.Close()
	dir, err := r.OpenRoot(rel)
	if err != nil {
		return coded(err)
	}
	defer dir.Close()
	guard := s.execs.redactor.Guard(sendTar{stream})
	out := bufio.NewWriterSize(guard, tarChunk)
	t := treeWriter{ctx: ctx, tar: tar.NewWriter(out), left: req.Msg}
	if err := t.dir(dir, "", 1); err != nil {
		_ = errors.Join(out.Flush(), guard.Close()) // so that the worker sees where it ends
		return coded(err)
	}
	return coded(errors.Join(t.tar.Close(), out.Flush(), guard.Close()))
}

type sendTar struct {
	stream *connect.ServerStream[rpc.Tar]
}

func (s sendTar) Write(p []byte) (int, error) { return len(p), s.stream.Send(&rpc.Tar{Data: p}) }

// A treeWriter writes a tree as the worker wants it: names, permissions, times,
// the contents of regular files and the targets of links. What it does not want
// it is told of. It looks again at all that it gets.
type treeWriter struct {
	ctx  context.Context
	tar  *tar.Writer
	left *rpc.GetTreeRequest
}

// errLimit ends a tree that the worker would refuse; its reason is seen from the
// header of the entry that was too much.
var errLimit = errors.New("a limit was met")

func (t *treeWriter) dir(r *os.Root, prefix string, depth int64) error {
	f, err := r.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(256)
		for _, e := range entries {
			switch err := t.entry(r, prefix+e.Name(), e.Name(), depth); {
			case errors.Is(err, fs.ErrNotExist): // it was removed meanwhile
			case errors.Is(err, errLimit):
				return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("%q: %w", text(prefix+e.Name()), err))
			case err != nil:
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (t *treeWriter) entry(r *os.Root, name, base string, depth int64) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	info, err := r.Lstat(base)
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Format: tar.FormatPAX}
	t.left.MaxFiles--
	exceeded := t.left.MaxFiles < 0 || depth > t.left.MaxDepth
	switch m := info.Mode(); {
	case m.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if err := t.tar.WriteHeader(h); err != nil || exceeded {
			return exceed(err)
		}
		sub, err := r.OpenRoot(base)
		if err != nil {
			return err
		}
		defer sub.Close()
		return t.dir(sub, name+"/", depth+1)
	case m&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = r.Readlink(base); err != nil {
			return err
		}
	case m.IsRegular():
		return t.file(r, base, h, exceeded)
	case m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0:
		h.Typeflag = tar.TypeBlock
	case m&fs.ModeDevice != 0:
		h.Typeflag = tar.TypeChar
	default: // a pipe, or a socket, for which tar has no type
		h.Typeflag = tar.TypeFifo
	}
	if err := t.tar.WriteHeader(h); err != nil || exceeded {
		return exceed(err)
	}
	return nil
}

func exceed(err error) error {
	if err == nil {
		err = errLimit
	}
	return err
}

// file sends a regular file. One that grows meanwhile ends where it did, one that
// shrinks ends the stream.
func (t *treeWriter) file(r *os.Root, base string, h *tar.Header, exceeded bool) error {
	f, err := r.OpenFile(base, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() { // since we looked
		return nil
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	t.left.MaxBytes -= h.Size
	if err := t.tar.WriteHeader(h); err != nil || exceeded || t.left.MaxBytes < 0 {
		return exceed(err)
	}
	n, err := io.Copy(t.tar, io.LimitReader(f, h.Size))
	if err == nil && n < h.Size {
		err = connect.NewError(connect.CodeAborted, fmt.Errorf("%q became shorter while it was read", text(h.Name)))
	}
	return err
}

func (s service) PutTree(_ context.Context, stream *connect.ClientStream[rpc.PutTreeRequest]) (*connect.Response[rpc.PutTreeResponse], error) {
	if !stream.Receive() {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no directory"))
	}
	r, rel, err := root(stream.Msg().Path)
	if err != nil {
		return nil, coded(err)
	}
	defer r.Close()
	if err := r.MkdirAll(rel, 0o755); err != nil {
		return nil, coded(err)
	}
	dir, err := r.OpenRoot(rel)
	if err != nil {
		return nil, coded(err)
	}
	defer dir.Close()
	n, err := unpack(dir, tar.NewReader(&receiveTar{stream: stream}))
	if err != nil {
		return nil, coded(err)
	}
	settle()
	return connect.NewResponse(&rpc.PutTreeResponse{Files: n}), nil
}

type receiveTar struct {
	stream *connect.ClientStream[rpc.PutTreeRequest]
	rest   []byte
}

func (r *receiveTar) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if !r.stream.Receive() {
			if err := r.stream.Err(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		}
		r.rest = r.stream.Msg().Data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// unpack makes the files of a tar stream. What is in the way of one is removed,
// unless it is a directory.
func unpack(dir *os.Root, t *tar.Reader) (files int64, err error) {
	buf := make([]byte, 256<<10)
	var open openDirs
	for ; ; files++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, open.leave(dir, "")
		} else if err != nil {
			return files, err
		}
		name, perm := strings.TrimSuffix(h.Name, "/"), fs.FileMode(h.Mode).Perm()
		if err := open.leave(dir, name); err != nil {
			return files, err
		}
		if h.Typeflag == tar.TypeDir {
			if err := open.enter(dir, name, perm|0o700, h.ModTime); err != nil {
				return files, err
			}
			continue
		}
		if err := dir.MkdirAll(path.Dir(name), 0o755); err != nil {
			return files, err
		}
		if err := dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return files, err
		}
		switch h.Typeflag {
		case tar.TypeSymlink:
			err = dir.Symlink(h.Linkname, name)
		case tar.TypeReg:
			err = unpackFile(dir, name, perm, h, t, buf)
		default:
			err = fmt.Errorf("%q is no file, directory or link", text(name))
		}
		if err != nil {
			return files, err
		}
	}
}

// openDirs are directories that were made, each in the one before. What is next may be
// in the last; each gets its time when nothing more comes into it, which would change it.
type openDirs []openDir

type openDir struct {
	name string
	time time.Time
}

// enter makes a directory. One that is there stays what it is.
func (o *openDirs) enter(root *os.Root, name string, perm fs.FileMode, at time.Time) error {
	if root.Mkdir(name, perm) != nil {
		return root.MkdirAll(name, perm)
	}
	*o = append(*o, openDir{name, at})
	f, err := root.OpenFile(name, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0) // Root.Chmod needs a call that some containers refuse
	if err != nil {
		return unlessGone(err)
	}
	return errors.Join(f.Chmod(perm), f.Close()) // whatever the umask is
}

// leave is called before name is made, and leaves the directories that it is not in.
func (o *openDirs) leave(root *os.Root, name string) error {
	for n := len(*o) - 1; n >= 0 && !strings.HasPrefix(name, (*o)[n].name+"/"); n-- {
		d := (*o)[n]
		*o = (*o)[:n]
		if err := unlessGone(root.Chtimes(d.name, d.time, d.time)); err != nil {
			return err
		}
	}
	return nil
}

// unlessGone ignores that something is not there any more: what runs here may have removed it.
func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func unpackFile(dir *os.Root, name string, perm fs.FileMode, h *tar.Header, t *tar.Reader, buf []byte) error {
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, perm|0o200)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, t, buf)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return dir.Chtimes(name, h.ModTime, h.ModTime)
}
