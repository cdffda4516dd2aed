package local_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
)

// The first shim is started before the sandbox is there. When it has started a command it
// is in it as the tool runner is, and holds as little.
func TestShimAhead(t *testing.T) {
	testenv.Require(t, testenv.PartRoot) // to look into the processes of a sandbox
	groups, err := syscall.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setgroups([]int{4711}); err != nil { // for something to drop
		t.Fatal(err)
	}
	defer syscall.Setgroups(groups)
	s, err := sandbox.Start(t.Context(), backend(t), sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(t.Context())
	if err := s.Command("true").Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{} // directories of /proc
	for _, pid := range below(t) {
		dir := fmt.Sprintf("/proc/%d", pid)
		name, _ := os.ReadFile(dir + "/cmdline")
		parts[strings.TrimRight(string(name), "\x00")] = dir
	}
	runner, first := parts["stepward-runner"], parts["stepward-shim"]
	if runner == "" || first == "" {
		t.Fatalf("the processes below this one: %v", parts)
	}
	root := func(dir string) (at [2]uint64) {
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(dir, "root"), &st); err != nil {
			t.Fatal(err)
		}
		return [2]uint64{st.Dev, st.Ino}
	}
	if in, host := root(first), root("/proc/self"); in != root(runner) || in == host {
		t.Errorf("the shim is at the root %v, the tool runner at %v, this process at %v", in, root(runner), host)
	}
	if at, err := os.Readlink(first + "/cwd"); err != nil || at != sandbox.Workspace {
		t.Errorf("the shim is in the directory %s, %v", at, err)
	}
	threads, err := filepath.Glob(first + "/task/*/status")
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	for _, thread := range threads {
		status := read(t, thread)
		nobody(t, status)
		for _, want := range []string{"CapInh:\t", "CapPrm:\t", "CapEff:\t", "CapBnd:\t", "CapAmb:\t"} {
			if want += "0000000000000000\n"; !strings.Contains(status, want) {
				t.Errorf("%q is missing in\n%s", want, status)
			}
		}
		if !strings.Contains(status, "NoNewPrivs:\t1\n") || !strings.Contains(status, "Seccomp:\t2\n") {
			t.Errorf("a thread of the shim may gain rights, or is not filtered:\n%s", status)
		}
	}
	if threads, err = filepath.Glob(runner + "/task/*/status"); err != nil || len(threads) < 2 {
		t.Fatal(threads, err)
	}
	for _, thread := range threads {
		status := read(t, thread)
		nobody(t, status)
		for _, want := range []string{"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
			if !strings.Contains(status, want) {
				t.Errorf("%q is missing for a thread of the tool runner:\n%s", want, status)
			}
		}
	}
	mounts := read(t, first+"/mountinfo")
	for fd := range 3 {
		info := read(t, fmt.Sprintf("%s/fdinfo/%d", first, fd))
		id := regexp.MustCompile(`mnt_id:\t(\d+)`).FindStringSubmatch(info)
		if id == nil || !regexp.MustCompile(`(?m)^`+id[1]+` .* /dev/null `).MatchString(mounts) {
			t.Errorf("descriptor %d of the shim is not of the sandbox's /dev/null: %s\n%s", fd, info, mounts)
		}
	}
}

// nobody checks that a thread has no id of this process's, which is root.
func nobody(t *testing.T, status string) {
	t.Helper()
	if !regexp.MustCompile(`(?m)^Uid:\t([1-9]\d*)\t([1-9]\d*)\t([1-9]\d*)\t([1-9]\d*)$`).MatchString(status) ||
		!regexp.MustCompile(`(?m)^Gid:\t([1-9]\d*)\t([1-9]\d*)\t([1-9]\d*)\t([1-9]\d*)$`).MatchString(status) ||
		!regexp.MustCompile(`(?m)^Groups:\t *$`).MatchString(status) {
		t.Errorf("a thread is of root's user, group or groups:\n%s", status)
	}
}

// A sandbox can be dialled while it is made, for what waits then until it is there.
func TestDialAhead(t *testing.T) {
	b := backend(t)
	var conn net.Conn
	var err error
	_, cerr := b.Create(t.Context(), sandbox.Creation{ID: "dialled", Reached: func() { conn, err = b.Dial(t.Context(), "dialled") }})
	if cerr != nil {
		t.Fatal(cerr)
	}
	defer b.Destroy(t.Context(), "dialled")
	if err != nil || conn == nil {
		t.Fatalf("dialled while it was made: %v, %v", conn, err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(conn); err != nil || len(rest) != 0 { // nothing is said to who has no token
		t.Errorf("%q, %v", rest, err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
