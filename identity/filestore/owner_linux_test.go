package filestore_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
)

// What another user may not even open is refused as whose it is.
func TestOwnerOfAll(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	const other = 65522
	for _, own := range [][]string{nil, {""}, {"", "/lock"}, {"", "/lock", "/key.age"}} { // are the other user's
		dir, err := os.MkdirTemp("", "store") // open to others
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		c := place(t)
		c.Dir = filepath.Join(dir, "secrets")
		open(t, c).Close()
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range own {
			if err := os.Chown(c.Dir+file, other, other); err != nil {
				t.Fatal(err)
			}
		}
		want := c.Dir + []string{"", "/lock", "/key.age", ".key"}[len(own)] + " is user 0's"
		cmd := exec.Command("/proc/self/exe") // the program may be where the other user does not come to
		cmd.Env = append(os.Environ(), writerDir+"="+c.Dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: other, Gid: other}}
		if out, err := cmd.Output(); err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%q: %v, want %s", out, err, want)
		}
	}
}
