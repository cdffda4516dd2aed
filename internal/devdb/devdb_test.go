//go:build unix

package devdb_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/devdb"
)

// TestMain lets the test binary be a holder in a process of its own.
func TestMain(m *testing.M) {
	if way := os.Getenv("DEVDB_TEST_HOLD"); way != "" {
		db, err := devdb.Open(context.Background(), devdb.Config{
			Ways: []devdb.Way{devdb.Way(way)}, Dir: os.Getenv("DEVDB_TEST_DIR"),
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Printf("%s\n%s\n", db.URL, db.Source)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until killed, or told
		db.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// sharedDir names a folder for clusters of one test. Not below t.TempDir, which
// the unprivileged user of the server could not enter.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir := "/tmp/devdb-test-" + strings.ToLower(rand.Text()[:8])
	t.Cleanup(func() { waitGone(t, dir) })
	return dir
}

// waitGone waits until the folder is gone, with all clusters and processes.
func waitGone(t *testing.T, dir string) {
	t.Helper()
	await(t, func() bool {
		_, err := os.Lstat(dir)
		return os.IsNotExist(err) && len(processesOf(t, dir)) == 0
	})
	if t.Failed() {
		t.Logf("left over in %s: %q", dir, processesOf(t, dir))
	}
}

// await waits until a condition holds.
func await(t *testing.T, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Error("waited in vain")
			return
		}
	}
}

// processesOf lists the processes whose command line names dir.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	out, err := exec.Command("ps", "-eo", "pid,ppid,args").Output()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func openLocal(t *testing.T, dir string) *devdb.DB {
	t.Helper()
	db, err := devdb.Open(t.Context(), devdb.Config{Ways: []devdb.Way{devdb.WayLocal}, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func query(t *testing.T, url, sql string) (answer string, err error) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.Background())
	err = conn.QueryRow(t.Context(), sql).Scan(&answer)
	return answer, err
}

func TestLocalCluster(t *testing.T) {
	dir := sharedDir(t)
	db := openLocal(t, dir)
	if db.Way != devdb.WayLocal || !strings.HasPrefix(db.Source, "Postgres ") || strings.Contains(db.Source, "\n") {
		t.Errorf("way %q, source %q", db.Way, db.Source)
	}
	got, err := query(t, db.URL, `SELECT concat_ws(' ', current_setting('server_encoding'), datcollate, current_setting('fsync'),
		(SELECT rolsuper FROM pg_roles WHERE rolname = current_user)) FROM pg_database WHERE datname = current_database()`)
	if want := "UTF8 C off t"; got != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	// The negative control of the password: without it nobody gets in.
	if _, err := query(t, strings.Replace(db.URL, ":", ":x", 2), "SELECT 'in'"); err == nil {
		t.Error("connected with a wrong password")
	}
	for _, p := range processesOf(t, filepath.Join(dir, "c-")) {
		if strings.Contains(p, "bin/postgres") && os.Getuid() == 0 {
			pid, _, _ := strings.Cut(p, " ")
			status, err := os.ReadFile("/proc/" + pid + "/status")
			if err == nil && strings.Contains(string(status), "Uid:\t0\t") {
				t.Errorf("runs as root: %s", p)
			}
		}
	}
}

func TestProcessesShareOneCluster(t *testing.T) {
	dir := sharedDir(t)
	const holders = 6
	urls := make([]string, holders)
	dbs := make([]*devdb.DB, holders)
	var all sync.WaitGroup
	for i := range holders {
		all.Go(func() {
			if i%2 == 0 {
				urls[i] = hold(t, devdb.WayLocal, dir).url
				return
			}
			db, err := devdb.Open(t.Context(), devdb.Config{Ways: []devdb.Way{devdb.WayLocal}, Dir: dir})
			if err != nil {
				t.Error(err)
				return
			}
			urls[i], dbs[i] = db.URL, db
		})
	}
	all.Wait()
	for _, url := range urls[1:] {
		if url != urls[0] {
			t.Fatalf("two clusters: %q", urls)
		}
	}
	for _, db := range dbs {
		if db != nil {
			db.Close()
			db.Close()
		}
	}
	if _, err := query(t, urls[0], "SELECT 'there'"); err != nil {
		t.Errorf("other processes still hold it: %v", err)
	}
}

// A holder is a process that holds the cluster.
type holder struct {
	cmd         *exec.Cmd
	url, source string
}

func holderCommand(way devdb.Way, dir string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "DEVDB_TEST_HOLD="+string(way), "DEVDB_TEST_DIR="+dir), env...)
	return cmd
}

func hold(t *testing.T, way devdb.Way, dir string, env ...string) holder {
	t.Helper()
	cmd := holderCommand(way, dir, env...)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Error(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Error(err)
		return holder{}
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewReader(out)
	url, err := lines.ReadString('\n')
	if err != nil {
		t.Errorf("holder: %v", err)
	}
	source, _ := lines.ReadString('\n')
	return holder{cmd, strings.TrimSpace(url), strings.TrimSpace(source)}
}

func TestKilledHolderLeavesNothing(t *testing.T) {
	dir := sharedDir(t)
	first := hold(t, devdb.WayLocal, dir)
	second := hold(t, devdb.WayLocal, dir)
	if first.url != second.url {
		t.Fatalf("two clusters: %s, %s", first.url, second.url)
	}
	first.cmd.Process.Kill()
	first.cmd.Wait()
	if _, err := query(t, second.url, "SELECT 'there'"); err != nil {
		t.Fatalf("the second still holds it: %v", err)
	}
	second.cmd.Process.Kill()
	second.cmd.Wait()
	waitGone(t, dir)
}

// TestStarterKilledHalfway kills a process that is making a cluster, which
// nobody else comes to clean up after.
func TestStarterKilledHalfway(t *testing.T) {
	for _, half := range []string{"pg", "pg/data/PG_VERSION", "pg/data/postmaster.pid"} {
		t.Run(filepath.Base(half), func(t *testing.T) {
			dir := sharedDir(t)
			cmd := holderCommand(devdb.WayLocal, dir)
			if _, err := cmd.StdinPipe(); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			await(t, func() bool {
				found, _ := filepath.Glob(filepath.Join(dir, "c-*", half))
				return len(found) > 0
			})
			cmd.Process.Kill()
			cmd.Wait()
			waitGone(t, dir)
		})
	}
}

// TestKilledHolderOfTheLock shows that the lock of a process that died keeps
// nobody out, and that one of a process that lives does.
func TestKilledHolderOfTheLock(t *testing.T) {
	dir := sharedDir(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	locked := exec.Command("flock", dir, "sh", "-c", "echo locked; exec cat")
	locked.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // flock waits for its command
	stdin, err := locked.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, err := locked.StdoutPipe()
	if err == nil {
		err = locked.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(line, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if db, err := devdb.Open(ctx, devdb.Config{Ways: []devdb.Way{devdb.WayLocal}, Dir: dir}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got in past the lock: %+v, %v", db, err)
	}
	if err := syscall.Kill(-locked.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	locked.Wait()
	db := openLocal(t, dir)
	if _, err := query(t, db.URL, "SELECT 'there'"); err != nil {
		t.Error(err)
	}
	db.Close()
}

// TestFolderComesAndGoes has processes meet the moments in which the last user
// removes the folder and the next one makes it.
func TestFolderComesAndGoes(t *testing.T) {
	dir := sharedDir(t)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for range 4 {
				db, err := devdb.Open(t.Context(), devdb.Config{Ways: []devdb.Way{devdb.WayLocal}, Dir: dir})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := query(t, db.URL, "SELECT 'there'"); err != nil {
					t.Error(err)
				}
				db.Close()
			}
		})
	}
	all.Wait()
}

// TestForeignFolder: anybody may make a folder in /tmp.
func TestForeignFolder(t *testing.T) {
	for name, create := range map[string]func(dir string) error{
		"others may write": func(dir string) error { return errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)) },
		"symlink":          func(dir string) error { return os.Symlink("/tmp", dir) },
		"file":             func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := sharedDir(t)
			if err := create(dir); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(dir)
			db, err := devdb.Open(t.Context(), devdb.Config{Ways: []devdb.Way{devdb.WayLocal}, Dir: dir})
			if err == nil || !strings.Contains(err.Error(), "not a folder that only this user may write") {
				t.Errorf("got %+v, %v", db, err)
			}
		})
	}
}

func TestStarterKilledAtAnyMoment(t *testing.T) {
	dir := sharedDir(t)
	for delay := 20 * time.Millisecond; delay < 1500*time.Millisecond; delay += 110 * time.Millisecond {
		ctx, cancel := context.WithTimeout(t.Context(), delay)
		cmd := exec.CommandContext(ctx, os.Args[0]) // killed with SIGKILL when the time is over
		cmd.Env = append(os.Environ(), "DEVDB_TEST_HOLD="+string(devdb.WayLocal), "DEVDB_TEST_DIR="+dir)
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Run()
		cancel()
	}
	db := openLocal(t, dir) // removes what a starter left before it had a guardian
	if _, err := query(t, db.URL, "SELECT 'there'"); err != nil {
		t.Fatal(err)
	}
	db.Close()
}

func TestDeadServerIsReplaced(t *testing.T) {
	dir := sharedDir(t)
	old := openLocal(t, dir)
	pidFile, err := filepath.Glob(filepath.Join(dir, "c-*", "pg", "data", "postmaster.pid"))
	if err != nil || len(pidFile) != 1 {
		t.Fatal(pidFile, err)
	}
	text, err := os.ReadFile(pidFile[0])
	if err != nil {
		t.Fatal(err)
	}
	pid, _, _ := strings.Cut(string(text), "\n")
	if out, err := exec.Command("kill", "-KILL", pid).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	db := openLocal(t, dir)
	if db.URL == old.URL {
		t.Error("got the dead server")
	}
	if _, err := query(t, db.URL, "SELECT 'there'"); err != nil {
		t.Error(err)
	}
}
