package local

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A process begins in its cgroup, the thread that started it has left that, and a
// cgroup that still has processes is removed all the same: of either version.
func TestGroup(t *testing.T) {
	parents := map[string]string{}
	for controller, dir := range findCgroups().dirs {
		parents[controller] = dir
	}
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(dir + "/cgroup.procs"); err == nil && unix.Access(dir, unix.W_OK) == nil {
			parents["version 2"] = dir
		}
	}
	for name, parent := range parents {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(parent, "stepward-test-"+strconv.Itoa(os.Getpid()))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			g := &group{dirs: []string{dir}}
			c := exec.Command("sleep", "600")
			c.SysProcAttr = &syscall.SysProcAttr{}
			if err := g.start(c); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Process.Kill(); c.Wait() })
			if raw, err := os.ReadFile(dir + "/cgroup.procs"); err != nil || !strings.Contains(string(raw), strconv.Itoa(c.Process.Pid)) {
				t.Fatalf("process %d did not begin in it: %q, %v", c.Process.Pid, raw, err)
			}
			for _, file := range []string{"/tasks", "/cgroup.procs"} { // of version 1 and 2
				raw, _ := os.ReadFile(dir + file)
				if n := len(strings.Fields(string(raw))); n > 1 {
					t.Errorf("%s lists %q: more than the process", file, raw)
				}
			}
			if err := unix.Rmdir(dir); err != unix.EBUSY {
				t.Fatalf("a cgroup with a process can be removed: %v", err)
			}
			begin := time.Now()
			if err := g.remove(); err != nil {
				t.Error(err)
			}
			t.Logf("removed in %v", time.Since(begin))
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("it is still there: %v", err)
			}
		})
	}
}
