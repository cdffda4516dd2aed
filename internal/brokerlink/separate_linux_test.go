package brokerlink

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/testenv"
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
	case os.Getenv(envSeparate) == "released":
		err = released()
	case os.Getenv(envSeparate) == "kept":
		err = kept()
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

// released is a worker whose broker is another: nothing is left that would start one.
func released() error {
	if err := Separate(Unnamed(workerUID), Unnamed(brokerUID)); err != nil {
		return err
	}
	CanServe()
	Release()
	other := Setup{Schema: "other"}
	Pin(other)
	if _, err := Child(other, func(string) {}).Client(context.Background()); err == nil || !strings.Contains(err.Error(), "has ended") {
		return fmt.Errorf("want no broker, got %w", err)
	}
	return nil
}

// kept is a program that would keep its capabilities when it is root no more.
func kept() error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := Separate(Unnamed(workerUID), Unnamed(brokerUID)); err == nil || !strings.Contains(err.Error(), "could still be root") {
		return fmt.Errorf("want a refusal, got %w", err)
	}
	return nil
}

// A worker with another broker ends what would start one, and a program that could become root again does not start.
func TestSeparateRefuses(t *testing.T) {
	needsRoot(t)
	for _, how := range []string{"released", "kept"} {
		c := exec.CommandContext(t.Context(), "/proc/self/exe")
		c.Env, c.Dir = append(os.Environ(), envSeparate+"="+how), "/"
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", how, err, out)
		}
	}
}

// A launcher that has died is no fault of a step: another worker may have one.
func TestLauncherDied(t *testing.T) {
	for _, heard := range []bool{false, true} {
		ours, theirs := seqpacket(t)
		launcher.conn, launcher.left = ours, true
		t.Cleanup(func() { launcher.conn, launcher.left = nil, false })
		if heard {
			go func() {
				defer theirs.Close()
				oob := make([]byte, unix.CmsgSpace(3*4))
				_, n, _, _, _ := theirs.ReadMsgUnix(make([]byte, 64<<10), oob)
				fds(t, oob[:n])
			}()
		} else {
			theirs.Close()
		}
		CanServe()
		_, err := Child(Setup{}, func(string) {}).Client(t.Context())
		if start, ok := errors.AsType[*StartError](err); !ok || !start.Away || !errors.Is(err, ErrLauncher) {
			t.Errorf("heard: %t: got %v", heard, err)
		}
	}
}

// What asks for a start names no database, and has no more than so many brokers.
func TestLauncherRefuses(t *testing.T) {
	for want, l := range map[string]*launches{
		"and not before":    {},
		"first named":       {setup: []byte("other")},
		"no more at a time": {setup: []byte("first")},
	} {
		if l.setup != nil {
			l.has.Store(mostBrokers)
		}
		control, far, err := pair()
		if err != nil {
			t.Fatal(err)
		}
		defer control.Close()
		defer far.Close()
		l.take([]byte("first"), unix.UnixRights(dup(t, far), dup(t, far), dup(t, far)), 0)
		far.Close()
		if text, err := io.ReadAll(control); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("want %q, got %q, %v", want, text, err)
		}
		if l.setup != nil && l.has.Load() != mostBrokers {
			t.Errorf("%s: %d brokers", want, l.has.Load())
		}
	}
}

// A home that belongs to the system is left alone.
func TestSettleElsewhere(t *testing.T) {
	for _, u := range []User{{workerUID, workerUID, t.TempDir() + "/home"}, {workerUID, workerUID, homes + "/../stepward-not"}} {
		if u.settle(); exists(u.Home) {
			t.Errorf("made %s", u.Home)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func seqpacket(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if ours, err = unixConn(fds[0]); err == nil {
		theirs, err = unixConn(fds[1])
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// fds closes what came with a message.
func fds(t *testing.T, oob []byte) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		t.Error(err)
	}
	for _, m := range all {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			t.Error(err)
		}
		for _, fd := range got {
			_ = unix.Close(fd)
		}
	}
}

func dup(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func needsRoot(t *testing.T) {
	t.Helper()
	testenv.Require(t, testenv.PartRoot)
	if !CanSeparate() {
		testenv.Skip(t, testenv.PartRoot, "this root may not change its user")
	}
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
	for _, want := range []string{"and not before", "first named"} {
		if _, err := other.Client(context.Background()); err == nil {
			return fmt.Errorf("a broker for another database was started")
		} else if !strings.Contains(err.Error(), want) {
			return err
		}
		Pin(Setup{Schema: "first"})
		Pin(Setup{Schema: "other"})
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
	needsRoot(t)
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
