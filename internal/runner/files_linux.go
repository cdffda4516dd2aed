package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/redact"
	"github.com/stepward/stepward/internal/rpc"
)

// root opens the directory that bounds the resolution of name, and name below it.
// What the sandbox wrote can be symbolic links: none leads out of its directory.
func root(name string) (*os.Root, string, error) {
	if !path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return nil, "", connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%q is not an absolute path", name))
	}
	name = path.Clean(name)
	for _, dir := range []string{Workspace, "/tmp"} {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			r, err := os.OpenRoot(dir)
			return r, "." + strings.TrimPrefix(name, dir), err
		}
	}
	r, err := os.OpenRoot("/")
	return r, "." + name, err
}

// coded gives an error the code that the worker turns back into an fs error.
func coded(err error) error {
	var ce *connect.Error
	var secret *redact.FoundError
	switch {
	case err == nil, errors.As(err, &ce):
		return err
	case errors.As(err, &secret):
		return connect.NewError(connect.CodePermissionDenied, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return connect.NewError(connect.CodeNotFound, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return connect.NewError(connect.CodePermissionDenied, err)
	case errors.Is(err, fs.ErrExist):
		return connect.NewError(connect.CodeAlreadyExists, err)
	case errors.Is(err, fs.ErrInvalid):
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewError(connect.CodeFailedPrecondition, err)
}

func (s service) describe(i fs.FileInfo) *rpc.FileInfo {
	return &rpc.FileInfo{Name: text(s.execs.redactor.Redact(i.Name())), Size: i.Size(), Mode: uint32(i.Mode()), ModTimeNs: i.ModTime().UnixNano()}
}

func (s service) Stat(_ context.Context, req *connect.Request[rpc.StatRequest]) (*connect.Response[rpc.StatResponse], error) {
	r, name, err := root(req.Msg.Path)
	if err != nil {
		return nil, coded(err)
	}
	defer r.Close()
	stat := r.Lstat
	if req.Msg.Follow {
		stat = r.Stat
	}
	info, err := stat(name)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&rpc.StatResponse{Info: s.describe(info)}), nil
}

func (s service) ReadDir(_ context.Context, req *connect.Request[rpc.ReadDirRequest], stream *connect.ServerStream[rpc.ReadDirResponse]) error {
	f, err := open(req.Msg.Path, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return coded(err)
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(256)
		resp := &rpc.ReadDirResponse{}
		for _, e := range entries {
			if info, ierr := e.Info(); ierr == nil { // else it was removed meanwhile
				resp.Entries = append(resp.Entries, s.describe(info))
			}
		}
		if len(resp.Entries) > 0 {
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return coded(err)
		}
	}
}

func (s service) ReadFile(ctx context.Context, req *connect.Request[rpc.ReadFileRequest], stream *connect.ServerStream[rpc.ReadFileResponse]) error {
	f, err := open(req.Msg.Path, os.O_RDONLY)
	if err != nil {
		return coded(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return coded(err)
	} else if !info.Mode().IsRegular() {
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("not a regular file"))
	}
	// What stands before the offset is read as well: a value may begin there.
	offset := req.Msg.Offset
	before := min(max(offset, 0), mostSecret)
	if s.execs.redactor.Empty() {
		before = 0
	}
	if _, err := f.Seek(offset-before, io.SeekStart); err != nil {
		return coded(err)
	}
	var r io.Reader = f
	if req.Msg.Limit > 0 {
		r = io.LimitReader(f, before+req.Msg.Limit)
	}
	guard := s.execs.redactor.Guard(&sendFile{stream: stream, skip: int(before)})
	buf := make([]byte, 256<<10)
	for ctx.Err() == nil {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if _, err := guard.Write(buf[:n]); err != nil {
				return coded(err)
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return coded(guard.Close())
		} else if err != nil {
			return coded(err)
		}
	}
	return ctx.Err()
}

// mostSecret is the size of the largest value.
const mostSecret = 64 << 10

// A sendFile sends what stands behind the first bytes.
type sendFile struct {
	stream *connect.ServerStream[rpc.ReadFileResponse]
	skip   int
}

func (s *sendFile) Write(p []byte) (int, error) {
	n := min(s.skip, len(p))
	s.skip -= n
	if n == len(p) {
		return n, nil
	}
	return len(p), s.stream.Send(&rpc.ReadFileResponse{Data: p[n:]})
}

// open never waits for the other end of a pipe that the sandbox put there.
func open(name string, flag int) (*os.File, error) {
	r, rel, err := root(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.OpenFile(rel, flag|syscall.O_NONBLOCK, 0)
}

func (s service) WriteFile(_ context.Context, stream *connect.ClientStream[rpc.WriteFileRequest]) (*connect.Response[rpc.WriteFileResponse], error) {
	if !stream.Receive() {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no file"))
	}
	r, name, err := root(stream.Msg().Path)
	if err != nil {
		return nil, coded(err)
	}
	defer r.Close()
	if dir := path.Dir(name); dir != "." {
		if err := r.MkdirAll(dir, 0o755); err != nil {
			return nil, coded(err)
		}
	}
	perm := fs.FileMode(stream.Msg().Perm).Perm()
	f, err := r.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NONBLOCK, perm|0o200)
	if err != nil {
		return nil, coded(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, coded(err)
	} else if !info.Mode().IsRegular() {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("not a regular file"))
	}
	if err := f.Chmod(perm); err != nil {
		return nil, coded(err)
	}
	var size int64
	for {
		n, err := f.Write(stream.Msg().Data)
		size += int64(n)
		if err != nil {
			return nil, coded(err)
		}
		if !stream.Receive() {
			break
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, coded(err)
	}
	settle()
	return connect.NewResponse(&rpc.WriteFileResponse{Size: size}), nil
}

// settle waits for processes that were being forked while a file was open for
// writing: they have its descriptor, too, until they execute a program, and a
// command that is this file would find it busy.
func settle() {
	syscall.ForkLock.RLock()
	syscall.ForkLock.RUnlock() //nolint:staticcheck // nothing to do but to wait
}
