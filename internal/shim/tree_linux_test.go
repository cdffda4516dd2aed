package shim

import (
	"bufio"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A process is found, and so stopped, before its children are looked for: there are none
// that it starts in between.
func TestFoundFirst(t *testing.T) {
	c := exec.Command("sh", "-c", "exec 3<&0; sh -c 'read go; sleep 1000 & echo $!; wait' <&3 & echo $!; wait") // & takes the input away
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = KillBelow(c.Process.Pid)
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	var child, grandchild int
	lines := bufio.NewReader(stdout)
	if _, err := fmt.Fscanln(lines, &child); err != nil {
		t.Fatal(err)
	}
	all, err := descendants(c.Process.Pid, func(pid int) {
		if pid == child {
			_, _ = stdin.Write([]byte("go\n"))
			_, _ = fmt.Fscanln(lines, &grandchild)
		}
	})
	if err != nil || grandchild == 0 || !slices.Equal(all, []int{child, grandchild}) {
		t.Errorf("found %v, %v; want %d, and %d, which it started when it was found", all, err, child, grandchild)
	}
}

// What has stayed in the group of a job's first process need not be found to be killed.
func TestEndOfGroup(t *testing.T) {
	c := exec.Command("sh", "-c", "(echo there; exec sleep 1000) & wait; exec sleep 1000")
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdout, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	lines.Scan() // it has a child, which writes to the same pipe
	j := &job{pid: c.Process.Pid}
	over := make(chan struct{})
	close(over) // nothing is looked for
	j.end(over)
	_ = unix.Kill(-c.Process.Pid, unix.SIGUSR1) // what ends it if nothing has
	for lines.Scan() {
		t.Errorf("it says %q", lines.Text())
	}
	_ = c.Wait()
	if st, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || st.Signal() != unix.SIGKILL {
		t.Errorf("it ended by %v", st.Signal())
	}
}
