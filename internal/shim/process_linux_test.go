package shim

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/fdpass"
)

// ends returns the tool runner's side of a shim that is not there, and what would be the shim's.
func ends(t *testing.T) (*Process, *os.File) {
	t.Helper()
	ours, theirs, err := fdpass.Pair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{conn: ours, left: commands}
	t.Cleanup(p.Close)
	return p, theirs
}

// Of a shim that ended it is known whether anything has run under it.
func TestUnready(t *testing.T) {
	for _, ready := range []bool{false, true} {
		p, theirs := ends(t)
		if err := p.Send(Request{Name: "true"}, nil, nil); err != nil { // that nobody will read
			t.Error(err)
		}
		if ready {
			if err := write(theirs, Event{Ready: true}); err != nil {
				t.Error(err)
			}
		}
		theirs.Close()
		e, err := p.Receive()
		if errors.Is(err, ErrUnready) == ready || !ready && errors.Is(err, io.EOF) {
			t.Errorf("of a shim that was ready (%t): %+v, %v", ready, e, err)
		}
		if err := p.Send(Request{Name: "true"}, nil, nil); err == nil || errors.Is(err, ErrUnready) == ready {
			t.Errorf("a request to one that has ended (%t): %v", ready, err)
		}
	}
}

// A shim that ends before it takes requests is known before it has one.
func TestAwait(t *testing.T) {
	for _, ready := range []bool{false, true} {
		p, theirs := ends(t)
		if ready {
			if err := write(theirs, Event{Ready: true}); err != nil {
				t.Error(err)
			}
		}
		theirs.Close()
		for range 2 {
			if err := p.Await(); errors.Is(err, ErrUnready) == ready || (err == nil) != ready {
				t.Errorf("one that was ready (%t): %v", ready, err)
			}
		}
	}
}

// A shim that was started ahead, and that the kernel has not taken along, starts nothing.
func TestLeftBehind(t *testing.T) {
	at, err := root()
	if err != nil {
		t.Fatal(err)
	}
	at[len(at)-1]++ // another root directory
	for _, told := range [][]byte{at, at[:3], nil} {
		ours, theirs, err := fdpass.Pair(unix.SOCK_STREAM)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ours.Write(told); err != nil {
			t.Fatal(err)
		}
		ours.Close()
		fd, err := unix.Dup(int(theirs.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		conn, err := fdpass.Open(fd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := awaitEntry(conn); err == nil {
			t.Errorf("a shim that was told %v goes on", told)
		}
	}
}

// What a shim does not end is ended without it, and then the shim; what comes after a
// command has nothing to fear.
func TestInsist(t *testing.T) {
	ours, theirs, err := fdpass.Pair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	c := exec.Command("sh", "-c", "setsid sleep 1000 & echo $!; trap '' TERM; wait; echo alone; read never")
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := c.StdoutPipe()
	if err == nil {
		err = c.Start() // a shim that answers nothing
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{conn: ours, pid: c.Process.Pid, left: commands}
	t.Cleanup(p.Close)
	lines := bufio.NewScanner(stdout)
	lines.Scan() // it has a child

	over := make(chan struct{})
	close(over)
	p.Insist(over, time.Hour)
	if below, err := p.Below(); err != nil || len(below) != 1 {
		t.Errorf("after a command that is over: %v, %v", below, err)
	}

	over = make(chan struct{})
	var insisting sync.WaitGroup
	insisting.Go(func() { p.Insist(over, 20*time.Millisecond) })
	if lines.Scan(); lines.Text() != "alone" {
		t.Errorf("it says %q, %v", lines.Text(), lines.Err())
	}
	err = c.Wait()
	close(over)
	insisting.Wait()
	if st, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || st.Signal() != unix.SIGKILL {
		t.Errorf("the shim: %v", err)
	}
}

// Processes that cannot be listed are none that have ended.
func TestListFails(t *testing.T) {
	if _, err := Descendants(1 << 29); err != nil {
		t.Errorf("below a process that there is not: %v", err)
	}
	if os.Getenv("LIST") != "" {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{}); err != nil {
			t.Fatal(err)
		}
		if all, err := descendants(os.Getpid(), func(int) {}); err == nil {
			t.Errorf("without descriptors: %v", all)
		}
		if all, err := byParent(os.Getpid()); err == nil {
			t.Errorf("without descriptors, by parent: %v", all)
		}
		if s := StateOf(os.Getpid()); s != '?' {
			t.Errorf("the state of a process that cannot be read is %c", s)
		}
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestListFails$", "-test.count=1")
	c.Env = append(os.Environ(), "LIST=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Who cannot list processes tries again, and gives up at some time.
func TestListAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			fails    int
			each     time.Duration // of a try
			err      error
			hopeless error
			want     error
		}{
			{fails: 0},
			{fails: 1, err: unix.EMFILE},
			{fails: 1, each: time.Minute, err: unix.ENFILE}, // no CPU time
			{fails: 19, each: time.Second, err: unix.ENFILE},
			{fails: 20, each: time.Second, err: unix.ENFILE, want: unix.ENFILE},
			{fails: 100, err: unix.ENFILE, hopeless: unix.EMFILE},
			{fails: 1 << 20, err: unix.ENFILE, want: unix.ENFILE},
			{fails: 1, err: unix.EMFILE, hopeless: unix.EMFILE, want: unix.EMFILE},
		} {
			left := c.fails
			all, err := patiently(func() ([]int, error) {
				time.Sleep(c.each)
				if left > 0 {
					left--
					return nil, c.err
				}
				return []int{1}, nil
			}, c.hopeless)
			if !errors.Is(err, c.want) || err == nil && len(all) != 1 {
				t.Errorf("%+v: %v, %v", c, all, err)
			}
		}
	})
}
