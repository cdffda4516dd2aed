package shim

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/testenv"
)

// Nothing is started to find out whether it can be, once the processes of the job are
// being stopped: what starts it would stand still, and the shim with it when its garbage is
// collected, until the tool runner loses patience.
func TestNoLookAtTheEnd(t *testing.T) {
	over := make(chan struct{})
	close(over)
	j := &job{crowd: crowd{most: 1 << 20}, kill: make(chan struct{}, 1)}
	j.end(over)
	syscall.ForkLock.RLock() // nothing can be started
	defer syscall.ForkLock.RUnlock()
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		j.crowd.look()
	}()
	testenv.Receive(t, looked)
}

// Room for what a shim takes is found by who has many processes, and by nobody else.
func TestCrowd(t *testing.T) {
	const most = 64
	if os.Getenv("SHIM_CROWD") == "" {
		testenv.Require(t, testenv.PartRoot) // to be somebody else, whose processes are limited
		c := exec.Command("/proc/self/exe", "-test.run=^TestCrowd$")
		c.Env = append(os.Environ(), "SHIM_CROWD=1")
		other := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 54321, Size: 1}}
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: other, GidMappings: other,
			Credential: &syscall.Credential{NoSetGroups: true},
		}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	confine.KeepThreads(20)
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: most, Max: most}); err != nil {
		t.Fatal(err)
	}
	var all []*exec.Cmd
	end := func(n int) {
		for _, c := range all[:n] {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
		all = all[n:]
	}
	defer func() { end(len(all)) }()
	for len(all) < most {
		c := exec.Command("/bin/sleep", "60")
		err := c.Start()
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	for _, want := range []struct{ met, nearly bool }{{true, true}, {false, true}, {false, false}} {
		c := crowd{most: most}
		c.look()
		if met, nearly := c.end(); met != want.met || nearly != want.nearly {
			t.Errorf("beside %d: met %v, nearly %v, want %v", len(all), met, nearly, want)
		}
		if want.met {
			end(8)
		} else {
			end(len(all) - 3)
		}
	}
}
