package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
)

// forged is a tool runner that was taken over: what it is asked for does not matter.
type forged struct {
	rpcconnect.UnimplementedRunnerHandler
	info    *rpc.FileInfo
	entries []*rpc.FileInfo
	err     error // of WriteFile
}

func (forged) Hello(context.Context, *connect.Request[rpc.HelloRequest]) (*connect.Response[rpc.HelloResponse], error) {
	return connect.NewResponse(&rpc.HelloResponse{Protocol: rpc.Protocol}), nil
}

func (f forged) Stat(context.Context, *connect.Request[rpc.StatRequest]) (*connect.Response[rpc.StatResponse], error) {
	return connect.NewResponse(&rpc.StatResponse{Info: f.info}), nil
}

// ReadFile goes on until nobody reads it.
func (forged) ReadFile(_ context.Context, _ *connect.Request[rpc.ReadFileRequest], s *connect.ServerStream[rpc.ReadFileResponse]) error {
	for {
		if err := s.Send(&rpc.ReadFileResponse{Data: make([]byte, 200<<10)}); err != nil {
			return err
		}
	}
}

// ReadDir goes on as well.
func (f forged) ReadDir(_ context.Context, _ *connect.Request[rpc.ReadDirRequest], s *connect.ServerStream[rpc.ReadDirResponse]) error {
	for {
		if err := s.Send(&rpc.ReadDirResponse{Entries: f.entries}); err != nil {
			return err
		}
	}
}

func (f forged) WriteFile(context.Context, *connect.ClientStream[rpc.WriteFileRequest]) (*connect.Response[rpc.WriteFileResponse], error) {
	return nil, f.err
}

// A forger is a backend whose sandboxes have that tool runner.
type forger struct {
	Backend
	runner rpcconnect.RunnerHandler
	served chan net.Conn
}

func (forger) Name() string { return "forger" }

func (f forger) Dial(context.Context, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	f.served <- theirs
	return ours, nil
}

func (f forger) Accept() (net.Conn, error) {
	c, ok := <-f.served
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (forger) Close() error   { return nil }
func (forger) Addr() net.Addr { return &net.UnixAddr{} }

func openForged(t *testing.T, r rpcconnect.RunnerHandler) *Sandbox {
	t.Helper()
	f := forger{runner: r, served: make(chan net.Conn)}
	_, handler := rpcconnect.NewRunnerHandler(r)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: handler, Protocols: &p}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(f)
	}()
	s, err := Open(t.Context(), f, Handle{ID: "x", token: func() []byte { return []byte("t") }}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Leave()
		close(f.served)
		<-served
		srv.Close()
	})
	return s
}

// lasting repeats a call whose connection broke: a stream that is left in the middle may
// take it along.
func lasting(call func() error) (err error) {
	for range 10 {
		if err = call(); !errors.Is(err, ErrLost) {
			break
		}
	}
	return err
}

// What a tool runner sends beyond what it was asked for, or may send, is an error, and
// takes no memory.
func TestForgedAnswers(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	s := openForged(t, forged{
		entries: []*rpc.FileInfo{{Name: "a"}, {Name: "b"}, {Name: "c"}},
		err:     connect.NewError(connect.CodeNotFound, errors.New(long[:1<<14])),
	})
	var f fs.File
	err := lasting(func() (err error) { f, err = s.FS().Open("file"); return err }) // nothing is said of it
	if err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 0 || info.Mode() != 0 || info.Name() != "file" {
		t.Errorf("Stat: %v, %v", info, err)
	}
	if err := lasting(func() error { _, err := f.Read(make([]byte, 10)); return err }); !errors.Is(err, errForged) {
		t.Errorf("Read: %v", err)
	}
	got := 0
	err = lasting(func() error {
		got = 0
		return s.readFile(t.Context(), "file", 0, 1<<20, func(p []byte) error { got += len(p); return nil })
	})
	if !errors.Is(err, errForged) || got > 1<<20 {
		t.Errorf("of 1 MiB it read %d, %v", got, err)
	}
	var list []fs.DirEntry
	listing := func(s *Sandbox) error {
		return lasting(func() (err error) { list, err = fs.ReadDir(s.FS(), "."); return err })
	}
	if err := listing(s); err == nil || errors.Is(err, ErrLost) || len(list) > 0 {
		t.Errorf("a directory without end has %d entries, %v", len(list), err)
	}
	if err := lasting(func() error { return s.WriteFile(t.Context(), "file", nil, 0o600) }); !errors.Is(err, fs.ErrNotExist) || len(err.Error()) > 8<<10 {
		t.Errorf("WriteFile: an error of %d bytes", len(err.Error()))
	}
	for _, name := range []string{"", ".", "..", "../up", "a/b", "/", long} {
		s := openForged(t, forged{entries: []*rpc.FileInfo{{Name: name}}})
		if err := listing(s); !errors.Is(err, errForged) || len(list) > 0 {
			t.Errorf("the name %.10q: %d entries, %v", name, len(list), err)
		}
	}
}

// No more arrives of a stream than MaxOutput.
func TestForgedOutput(t *testing.T) {
	var out bytes.Buffer
	x := &execution{sb: &Sandbox{}, name: "x", req: &rpc.ExecRequest{MaxOutput: 100}, stdout: &out, stderr: io.Discard}
	for range 30 {
		for _, s := range []rpc.Output_Stream{rpc.Output_STDOUT, rpc.Output_STDERR} {
			x.output(t.Context(), &rpc.Output{Stream: s, Data: make([]byte, 10)})
		}
		if x.writeErr != nil {
			break
		}
	}
	if out.Len() != 100 || !errors.Is(x.writeErr, errForged) {
		t.Errorf("%d bytes, %v", out.Len(), x.writeErr)
	}
	if err := x.result(t.Context(), &rpc.End{StartErrno: 1, StartError: strings.Repeat("x", 1<<20)}); len(err.Error()) > 8<<10 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

// The handle has the network that is in force. It is kept before that changes; and if it
// cannot be, nothing does.
func TestSetNetworkKeeps(t *testing.T) {
	wide, failed := NetworkPolicy{Allow: []string{"example.com"}}, errors.New("it was not stored")
	s := openForged(t, forged{})
	s.spec.Network = wide
	var kept []Handle
	var refused error
	s.keep = func(_ context.Context, h Handle) error {
		if now := s.Handle().Spec.Network.Allow; len(now) != 1 {
			t.Errorf("it changed before it was kept: %v", now)
		}
		kept = append(kept, h)
		return refused
	}
	refused = failed
	if err := s.SetNetwork(t.Context(), NetworkPolicy{}); !errors.Is(err, failed) || len(s.Handle().Spec.Network.Allow) != 1 {
		t.Errorf("%v, and it allows %v", err, s.Handle().Spec.Network.Allow)
	}
	refused = nil
	if err := s.SetNetwork(t.Context(), NetworkPolicy{}); err != nil || len(s.Handle().Spec.Network.Allow) != 0 {
		t.Errorf("%v, and it allows %v", err, s.Handle().Spec.Network.Allow)
	}
	if len(kept) != 2 || kept[1].ID != "x" || len(kept[1].Spec.Network.Allow) != 0 {
		t.Errorf("kept: %+v", kept)
	}
}
