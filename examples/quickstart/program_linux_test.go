package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/testenv"
)

// The tests run the program as users do: built by go build, in a process of its
// own, and below a keeper, which ends only when everything that the program
// started has ended as well: workers, sandboxes, and a Postgres server.

const (
	keeperEnv = "QUICKSTART_TEST_KEEPER"
	uidEnv    = "QUICKSTART_TEST_UID"
)

func TestMain(m *testing.M) {
	if os.Getenv(keeperEnv) != "" {
		os.Exit(keep())
	}
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// statusLeftover is the keeper's exit status when processes stay behind.
const statusLeftover = 99

// keep runs the command in its arguments, waits for the end of all processes
// that come of it, and returns the command's exit status.
func keep() int {
	os.Unsetenv(keeperEnv)
	// Processes whose parent has ended become children of this one.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	signal.Notify(make(chan os.Signal, 1), os.Interrupt) // it is meant for the program, in the same group
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if uid, err := strconv.ParseUint(os.Getenv(uidEnv), 10, 32); err == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	if err := cmd.Run(); cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		return 1
	}
	time.AfterFunc(time.Minute, func() {
		all, _ := exec.Command("ps", "-eo", "pid,ppid,user,args").Output()
		fmt.Fprintf(os.Stderr, "keeper: %d still has children:\n%s", os.Getpid(), all)
		os.Exit(statusLeftover)
	})
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
			return cmd.ProcessState.ExitCode()
		}
	}
}

// built is the program, built once.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func program(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		// Not t.TempDir, which other users cannot enter.
		if built.dir, built.err = os.MkdirTemp("/tmp", "quickstart-test-"); built.err != nil {
			return
		}
		if built.err = os.Chmod(built.dir, 0o755); built.err != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-o", filepath.Join(built.dir, "quickstart"), ".").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "quickstart")
}

// A run is one start of the program.
type run struct {
	t      *testing.T
	home   string
	tmp    string   // its temporary directory, where nothing may stay
	out    string   // the folder of the site
	env    []string // besides PATH and TMPDIR
	uid    int      // who it runs as; -1: the user of the test
	prefix []string // a command that runs it

	keeper *exec.Cmd
	ended  chan struct{} // closed when the keeper has
	stdout output
	stderr output
}

// newRun prepares a run by an ordinary user, who is nobody if the test is root.
func newRun(t *testing.T) *run {
	t.Helper()
	home, err := os.MkdirTemp("/tmp", "quickstart-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	r := &run{t: t, home: home, tmp: filepath.Join(home, "tmp"), out: filepath.Join(home, "site"), uid: -1}
	if err := os.Mkdir(r.tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		if r.uid, err = strconv.Atoi(nobody.Uid); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{home, r.tmp} {
			if err := os.Chown(dir, r.uid, r.uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.env = []string{"HOME=" + home}
	if url := os.Getenv("DATABASE_URL"); url != "" {
		r.useServer(url)
	}
	return r
}

// asTester lets the user of the test run the program, with the server and the
// caches that the test has.
func (r *run) asTester() {
	r.t.Helper()
	for _, dir := range []string{r.home, r.tmp} {
		if err := os.Chown(dir, os.Getuid(), os.Getgid()); err != nil {
			r.t.Fatal(err)
		}
	}
	r.uid, r.env = -1, os.Environ()
	r.useServer(testenv.PostgresURL(r.t))
}

// file writes a file that the run may read.
func (r *run) file(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.home, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// closedFolder is one in which the run may write nothing.
func (r *run) closedFolder() string {
	r.t.Helper()
	path := filepath.Join(r.home, "closed")
	if err := os.Mkdir(path, 0o555); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// start starts the program with -out and the arguments.
func (r *run) start(args ...string) {
	r.t.Helper()
	command := append(append(r.prefix, program(r.t), "-out", r.out), args...)
	// Five minutes are no expectation: they end a program that hangs.
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Minute)
	r.t.Cleanup(cancel)
	r.keeper = exec.CommandContext(ctx, os.Args[0], command...)
	r.keeper.Dir = r.home
	r.keeper.Env = append([]string{"PATH=" + os.Getenv("PATH")}, r.env...)
	r.keeper.Env = append(r.keeper.Env, "TMPDIR="+r.tmp, keeperEnv+"=1", uidEnv+"=")
	if r.uid >= 0 {
		r.keeper.Env = append(r.keeper.Env, uidEnv+"="+strconv.Itoa(r.uid))
	}
	r.keeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.keeper.Cancel = func() error { return syscall.Kill(-r.keeper.Process.Pid, syscall.SIGKILL) }
	r.keeper.WaitDelay = 10 * time.Second // what stays behind may hold the outputs open
	r.keeper.Stdout, r.keeper.Stderr = &r.stdout, &r.stderr
	if err := r.keeper.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.ended = make(chan struct{})
	go func() {
		defer close(r.ended)
		_ = r.keeper.Wait()
	}()
	r.t.Cleanup(func() {
		if r.t.Failed() {
			r.t.Logf("stdout:\n%s\nstderr:\n%s", r.stdout.text(), r.stderr.text())
		}
	})
}

// interrupt does what Ctrl-C in a terminal does: every process of the group
// gets the signal.
func (r *run) interrupt() {
	r.t.Helper()
	if err := syscall.Kill(-r.keeper.Process.Pid, syscall.SIGINT); err != nil {
		r.t.Fatal(err)
	}
}

// wait waits for the end of the program and of all that it started, and checks
// the exit status, and that no file stays in the temporary directory.
func (r *run) wait(status int) {
	r.t.Helper()
	<-r.ended
	if got := r.keeper.ProcessState.ExitCode(); got != status {
		r.t.Fatalf("exit status %d, want %d", got, status)
	}
	// The docker backend keeps one folder per user, for sockets; it must be empty.
	sockets, _ := filepath.Glob(filepath.Join(r.tmp, "stepward-sockets-*"))
	for _, dir := range sockets {
		if err := os.Remove(dir); err != nil {
			r.t.Error(err)
		}
	}
	left, err := os.ReadDir(r.tmp)
	if err != nil || len(left) > 0 {
		r.t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

// An output can be read while it is written, and waited for.
type output struct {
	mu   sync.Mutex
	all  bytes.Buffer
	more chan struct{} // closed with the next write
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more != nil {
		close(o.more)
		o.more = nil
	}
	return o.all.Write(p)
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}

// next returns what is there, and what tells of more.
func (o *output) next() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more == nil {
		o.more = make(chan struct{})
	}
	return o.all.String(), o.more
}

// await waits until the program has printed the text.
func (r *run) await(want string) {
	r.t.Helper()
	for {
		text, more := r.stdout.next()
		if strings.Contains(text, want) {
			return
		}
		select {
		case <-more:
		case <-r.ended:
			r.t.Fatalf("it ended and did not print %q", want)
		}
	}
}
