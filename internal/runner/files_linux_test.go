package runner

import (
	"errors"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
)

// files returns a client of the file calls, and a directory in /tmp, which is
// the root that names below it are resolved in.
func files(t *testing.T) (rpcconnect.RunnerClient, string) {
	t.Helper()
	_, h := rpcconnect.NewRunnerHandler(service{newServer(config{})}, rpc.HandlerOptions()...)
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	dir, err := os.MkdirTemp("/tmp", "stepward-files-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return rpcconnect.NewRunnerClient(srv.Client(), srv.URL, rpc.ClientOptions()...), dir
}

func put(t *testing.T, c rpcconnect.RunnerClient, name, data string, perm fs.FileMode) error {
	up := c.WriteFile(t.Context())
	_ = up.Send(&rpc.WriteFileRequest{Path: name, Data: []byte(data), Perm: uint32(perm)})
	_, err := up.CloseAndReceive()
	return err
}

func get(t *testing.T, c rpcconnect.RunnerClient, req *rpc.ReadFileRequest) (string, error) {
	down, err := c.ReadFile(t.Context(), connect.NewRequest(req))
	if err != nil {
		return "", err
	}
	defer down.Close()
	var out strings.Builder
	for down.Receive() {
		out.Write(down.Msg().Data)
	}
	return out.String(), down.Err()
}

// Whatever the sandbox put in the way, a file is written and read only below the
// directory that its name begins with.
func TestPathEscapes(t *testing.T) {
	c, dir := files(t)
	outside, err := os.MkdirTemp("/var/tmp", "stepward-outside-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(outside) })
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	up := "../.." + outside // which a root at / would follow
	for link, target := range map[string]string{
		"file": secret, "dir": outside, "relative": up, "chain": "dir", "self": "self", "inside": "real",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"file", "dir/secret", "relative/secret", "chain/secret", "self", "self/x", "dir/new", "relative/new", "dir/sub/new",
	} {
		name = dir + "/" + name
		if err := put(t, c, name, "overwritten", 0o644); err == nil {
			t.Errorf("WriteFile(%s) succeeded", name)
		}
		if got, err := get(t, c, &rpc.ReadFileRequest{Path: name}); err == nil {
			t.Errorf("ReadFile(%s) = %q", name, got)
		}
		if _, err := c.Stat(t.Context(), connect.NewRequest(&rpc.StatRequest{Path: name, Follow: true})); err == nil {
			t.Errorf("Stat(%s) succeeded", name)
		}
	}
	if got, err := os.ReadFile(secret); err != nil || string(got) != "secret" {
		t.Errorf("the file outside is %q, %v", got, err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Errorf("outside are %v", entries)
	}
	// The control: a link that stays below the directory is followed.
	if err := put(t, c, dir+"/inside/new", "in", 0o644); err != nil {
		t.Errorf("through a link that stays inside: %v", err)
	}
	if got, err := get(t, c, &rpc.ReadFileRequest{Path: dir + "/inside/new"}); got != "in" {
		t.Errorf("through a link that stays inside: %q, %v", got, err)
	}
}

func TestBadPaths(t *testing.T) {
	c, dir := files(t)
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "relative", "../tmp/x", dir + "/nul\x00", fifo, dir} {
		if err := put(t, c, name, "x", 0o644); err == nil {
			t.Errorf("WriteFile(%q) succeeded", name)
		}
		if _, err := get(t, c, &rpc.ReadFileRequest{Path: name}); err == nil {
			t.Errorf("ReadFile(%q) succeeded", name)
		}
	}
	// ".." is resolved before anything else: it leads to the root, not out of it.
	if err := put(t, c, dir+"/a/../b", "x", 0o600); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(dir + "/b"); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for name, want := range map[string]connect.Code{
		dir + "/none": connect.CodeNotFound, dir + "/b/x": connect.CodeNotFound, "relative": connect.CodeInvalidArgument,
	} {
		if _, err := get(t, c, &rpc.ReadFileRequest{Path: name}); connect.CodeOf(err) != want {
			t.Errorf("ReadFile(%s): %v, want %v", name, err, want)
		}
	}
}

func TestReadRange(t *testing.T) {
	c, dir := files(t)
	name := dir + "/digits"
	if err := put(t, c, name, "0123456789", 0o644); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		offset, limit int64
		want          string
	}{{0, 0, "0123456789"}, {3, 4, "3456"}, {8, 100, "89"}, {10, 1, ""}, {99, 0, ""}} {
		got, err := get(t, c, &rpc.ReadFileRequest{Path: name, Offset: r.offset, Limit: r.limit})
		if err != nil || got != r.want {
			t.Errorf("from %d, %d bytes: %q, %v", r.offset, r.limit, got, err)
		}
	}
	if _, err := get(t, c, &rpc.ReadFileRequest{Path: name, Offset: -1}); err == nil {
		t.Error("a negative offset was accepted")
	}
}

// WriteFile answers when no process that is being forked can have the file open
// any more: a command that is the file would find it busy.
func TestWriteFileWaitsForForks(t *testing.T) {
	c, dir := files(t)
	syscall.ForkLock.Lock() // as a fork in flight does
	done := make(chan error, 1)
	go func() { done <- put(t, c, dir+"/program", "#!", 0o755) }()
	for { // until all but the answer is done, and for many calls longer
		if raw, err := os.ReadFile(dir + "/program"); err == nil && len(raw) == 2 {
			break
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	for range 200 {
		if _, err := c.Stat(t.Context(), connect.NewRequest(&rpc.StatRequest{Path: dir})); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-done:
		t.Errorf("it answered beside a fork: %v", err)
		done <- err
	default:
	}
	syscall.ForkLock.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
