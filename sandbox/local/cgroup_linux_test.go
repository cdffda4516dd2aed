package local

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A cgroup that still has processes is removed all the same, of either version.
func TestRemoveGroup(t *testing.T) {
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
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Process.Kill(); c.Wait() })
			if err := g.add(c.Process.Pid); err != nil {
				t.Fatal(err)
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
