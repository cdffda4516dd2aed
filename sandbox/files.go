package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
)

// chunk is how much of a file one message carries.
const chunk = 256 << 10

// fileTimeout bounds a call of [Sandbox.FS], whose methods take no context.
const fileTimeout = time.Minute

// What is listed of a directory. A name that is not UTF-8 gets longer.
const (
	maxEntries = 100_000
	maxName    = 1 << 10
)

// errEntries is that of a directory that is not listed.
var errEntries = fmt.Errorf("it has over %d entries", maxEntries)

// errForged is that of an answer that no tool runner gives: one that was taken over
// sends what it likes.
var errForged = errors.New("the tool runner answers what it was not asked for")

// errNotUTF8 is that of a name that cannot be sent.
var errNotUTF8 = fmt.Errorf("not UTF-8: %w", fs.ErrInvalid)

// WriteFile writes data to the file name, which it makes, with its parents, or
// replaces. A relative name is below [Workspace]. Only files in it and in /tmp
// can be written; a symbolic link never leads out of them.
func (s *Sandbox) WriteFile(ctx context.Context, name string, data []byte, perm fs.FileMode) error {
	fail := func(err error) error {
		return &fs.PathError{Op: "write", Path: name, Err: fileError(lost(ctx, err))}
	}
	if !utf8.ValidString(name) {
		return &fs.PathError{Op: "write", Path: name, Err: errNotUTF8}
	}
	s.claimed.Store(true)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := s.data.get(ctx)
	if err != nil {
		return fail(err)
	}
	up := c.WriteFile(ctx)
	first := &rpc.WriteFileRequest{Path: absolute(name), Perm: uint32(perm.Perm())}
	for {
		n := min(len(data), chunk)
		first.Data, data = data[:n], data[n:]
		if err := up.Send(first); err != nil && !errors.Is(err, io.EOF) {
			return fail(err)
		} else if err != nil || len(data) == 0 {
			break // the answer says what went wrong
		}
		first = &rpc.WriteFileRequest{}
	}
	if _, err := up.CloseAndReceive(); err != nil {
		return fail(err)
	}
	return nil
}

// ReadFile returns the contents of the regular file name, at most 1 GiB. A
// relative name is below [Workspace]. A symbolic link is followed as far as it
// stays below the directory that the name begins with: /workspace, /tmp or /.
func (s *Sandbox) ReadFile(ctx context.Context, name string) ([]byte, error) {
	const most = 1 << 30
	var out []byte
	err := s.readFile(ctx, absolute(name), 0, most+1, func(p []byte) error {
		if len(out)+len(p) > most {
			return errors.New("file is over 1 GiB")
		}
		out = append(out, p...)
		return nil
	})
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return out, nil
}

func (s *Sandbox) readFile(ctx context.Context, name string, offset, limit int64, chunk func([]byte) error) error {
	if !utf8.ValidString(name) {
		return errNotUTF8
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := s.data.get(ctx)
	if err != nil {
		return lost(ctx, err)
	}
	down, err := c.ReadFile(ctx, connect.NewRequest(&rpc.ReadFileRequest{Path: name, Offset: offset, Limit: limit}))
	if err != nil {
		return fileError(lost(ctx, err))
	}
	defer func() { _ = down.Close() }()
	for down.Receive() {
		data := down.Msg().Data
		if limit -= int64(len(data)); limit < 0 {
			return errForged
		}
		if err := chunk(data); err != nil {
			return err
		}
	}
	return fileError(lost(ctx, down.Err()))
}

func absolute(name string) string {
	if !path.IsAbs(name) {
		name = path.Join(Workspace, name)
	}
	return path.Clean(name)
}

// fileError gives the codes of the runner back their meaning.
func fileError(err error) error {
	var ce *connect.Error
	if !errors.As(err, &ce) || errors.Is(err, ErrLost) {
		return err
	}
	msg := short(ce.Message())
	for code, target := range map[connect.Code]error{
		connect.CodeNotFound:         fs.ErrNotExist,
		connect.CodePermissionDenied: fs.ErrPermission,
		connect.CodeInvalidArgument:  fs.ErrInvalid,
		connect.CodeAlreadyExists:    fs.ErrExist,
	} {
		if ce.Code() == code {
			return fmt.Errorf("%w (%s)", target, msg)
		}
	}
	return errors.New(msg)
}

// short cuts a text of the runner, which goes into errors.
func short(text string) string {
	const most = 4 << 10
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// FS returns the sandbox's files, rooted at its /. It can be used as long as the
// sandbox exists; each call is bounded by a minute, and a directory of over 100,000
// entries is not listed. It implements
// [io/fs.ReadFileFS], [io/fs.ReadDirFS] and [io/fs.StatFS].
func (s *Sandbox) FS() fs.FS { return sandboxFS{s} }

type sandboxFS struct{ s *Sandbox }

func (f sandboxFS) do(op, name string, call func(ctx context.Context, abs string) error) error {
	if !fs.ValidPath(name) {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	ctx, cancel := context.WithTimeout(context.Background(), fileTimeout)
	defer cancel()
	if err := call(ctx, "/"+strings.TrimPrefix(name, ".")); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: fileError(lost(ctx, err))}
	}
	return nil
}

func (f sandboxFS) Stat(name string) (info fs.FileInfo, err error) {
	err = f.do("stat", name, func(ctx context.Context, abs string) error {
		c, err := f.s.data.get(ctx)
		if err != nil {
			return err
		}
		r, err := c.Stat(ctx, connect.NewRequest(&rpc.StatRequest{Path: abs, Follow: true}))
		if err == nil {
			info = newFileInfo(r.Msg.Info, path.Base(name))
		}
		return err
	})
	return info, err
}

func (f sandboxFS) Open(name string) (fs.File, error) {
	info, err := f.Stat(name)
	if err != nil {
		if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
			pe.Op = "open"
		}
		return nil, err
	}
	return &file{f: f, name: name, info: info}, nil
}

func (f sandboxFS) ReadFile(name string) (out []byte, err error) {
	err = f.do("read", name, func(ctx context.Context, abs string) error {
		out, err = f.s.ReadFile(ctx, abs)
		var pe *fs.PathError
		if errors.As(err, &pe) {
			return pe.Err
		}
		return err
	})
	return out, err
}

func (f sandboxFS) ReadDir(name string) (out []fs.DirEntry, err error) {
	err = f.do("readdir", name, func(ctx context.Context, abs string) error {
		c, err := f.s.data.get(ctx)
		if err != nil {
			return err
		}
		down, err := c.ReadDir(ctx, connect.NewRequest(&rpc.ReadDirRequest{Path: abs}))
		if err != nil {
			return err
		}
		defer func() { _ = down.Close() }()
		for down.Receive() {
			entries := down.Msg().Entries
			if len(out)+len(entries) > maxEntries {
				out = nil
				return errEntries
			}
			for _, e := range entries {
				if len(e.Name) > maxName || e.Name == "." || !fs.ValidPath(e.Name) || strings.Contains(e.Name, "/") {
					out = nil
					return errForged
				}
				out = append(out, fs.FileInfoToDirEntry(newFileInfo(e, e.Name)))
			}
		}
		return down.Err()
	})
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out, err
}

// fileInfo is what the runner says about a file, and no more of what it sent.
type fileInfo struct {
	name    string
	size    int64
	mode    fs.FileMode
	modTime int64 // ns
}

func newFileInfo(i *rpc.FileInfo, name string) fileInfo {
	return fileInfo{name: name, size: i.GetSize(), mode: fs.FileMode(i.GetMode()), modTime: i.GetModTimeNs()}
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) Mode() fs.FileMode  { return i.mode }
func (i fileInfo) ModTime() time.Time { return time.Unix(0, i.modTime) }
func (i fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i fileInfo) Sys() any           { return nil }

// A file of FS reads a chunk at a time.
type file struct {
	f       sandboxFS
	name    string
	info    fs.FileInfo
	closed  bool
	offset  int64
	buf     []byte
	entries []fs.DirEntry
	listed  bool
}

func (f *file) Stat() (fs.FileInfo, error) {
	if f.closed {
		return nil, f.err("stat", fs.ErrClosed)
	}
	return f.info, nil
}

func (f *file) Read(p []byte) (int, error) {
	switch {
	case f.closed:
		return 0, f.err("read", fs.ErrClosed)
	case f.info.IsDir():
		return 0, f.err("read", errors.New("is a directory"))
	case len(p) == 0:
		return 0, nil
	}
	if len(f.buf) == 0 {
		err := f.f.do("read", f.name, func(ctx context.Context, abs string) error {
			return f.f.s.readFile(ctx, abs, f.offset, chunk, func(p []byte) error { f.buf = append(f.buf, p...); return nil })
		})
		if err != nil {
			return 0, err
		}
		if len(f.buf) == 0 {
			return 0, io.EOF
		}
	}
	n := copy(p, f.buf)
	f.buf = f.buf[n:]
	f.offset += int64(n)
	return n, nil
}

func (f *file) ReadDir(n int) ([]fs.DirEntry, error) {
	if f.closed {
		return nil, f.err("readdir", fs.ErrClosed)
	}
	if !f.info.IsDir() {
		return nil, f.err("readdir", errors.New("not a directory"))
	}
	if !f.listed {
		var err error
		if f.entries, err = f.f.ReadDir(f.name); err != nil {
			return nil, err
		}
		f.listed = true
	}
	if n <= 0 {
		out := f.entries
		f.entries = nil
		return out, nil
	}
	if len(f.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(f.entries))
	out := f.entries[:n]
	f.entries = f.entries[n:]
	return out, nil
}

func (f *file) Close() error {
	if f.closed {
		return f.err("close", fs.ErrClosed)
	}
	f.closed = true
	return nil
}

func (f *file) err(op string, err error) error { return &fs.PathError{Op: op, Path: f.name, Err: err} }
