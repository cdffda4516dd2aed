package brokerlink

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// envSeparate has the test's program be a worker that gives up root, and starts a broker.
const envSeparate = "BROKERLINK_TEST_SEPARATE"

const workerUID, brokerUID = 65521, 65522

func TestMain(m *testing.M) {
	var err error
	switch {
	case Launching():
		err = Launch()
	case Started():
		err = answer()
	case os.Getenv(envSeparate) != "":
		err = separate()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// answer is a broker that says that it serves, and with which database, and nothing else.
func answer() error {
	conn, err := Inherited()
	if err != nil {
		return err
	}
	setup, err := ReadSetup(os.Stdin)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "schema", setup.Schema)
	if err := Serving(conn); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// separate says which process its broker is, and what becomes of one for another database.
func separate() error {
	if err := Separate(Unnamed(workerUID), Unnamed(brokerUID)); err != nil {
		return err
	}
	CanServe()
	said := make(chan string, 1)
	first := Child(Setup{Schema: "first"}, func(line string) { said <- line })
	other := Child(Setup{Schema: "other"}, func(string) {})
	if _, err := other.Client(context.Background()); err == nil {
		return fmt.Errorf("a broker for another database was started")
	} else if !strings.Contains(err.Error(), "first named") {
		return err
	}
	if _, err := first.Client(context.Background()); err != nil {
		return err
	}
	fmt.Println(first.Pid(), <-said)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// A broker that was started as its user serves the first database that was named, also if others were asked for
// before; and when its worker is killed, nothing is left of it and of what has started it.
func TestKilledWorkerLeavesNothing(t *testing.T) {
	if os.Getuid() != 0 || !CanSeparate() {
		t.Skip("needs root: it gives that up")
	}
	c := exec.CommandContext(t.Context(), "/proc/self/exe")
	c.Env, c.Dir, c.Stderr = append(os.Environ(), envSeparate+"=1"), "/", os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, schema, _ := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || schema != "schema first" {
		t.Fatalf("got %q, %v", line, err)
	}
	broker, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	parent, uid := status(t, broker)
	if uid != brokerUID {
		t.Errorf("the broker is user %d", uid)
	}
	if _, uid := status(t, c.Process.Pid); uid != workerUID {
		t.Errorf("the worker is user %d", uid)
	}
	if _, uid := status(t, parent); uid != 0 {
		t.Errorf("what has started the broker is user %d", uid)
	}
	ended := []func(){await(t, broker), await(t, parent)}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, wait := range ended {
		wait()
	}
}

// status returns the parent and the user of a process.
func status(t *testing.T, pid int) (parent, uid int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		switch f := strings.Fields(line); f[0] {
		case "PPid:":
			parent, err = strconv.Atoi(f[1])
		case "Uid:":
			uid, err = strconv.Atoi(f[1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return parent, uid
}

// await returns what waits for the end of a process.
func await(t *testing.T, pid int) func() {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		defer unix.Close(fd)
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n == 0 {
				t.Errorf("process %d is still there: %v", pid, err)
			}
			return
		}
	}
}
