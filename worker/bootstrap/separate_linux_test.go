package bootstrap_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// reach says what this process can do to a broker and to what is its own.
func reach(pid, store string) map[string]bool {
	_, key := os.ReadFile(filepath.Join(store+".broker", "broker.key"))
	_, values := os.ReadDir(store)
	_, environ := os.ReadFile("/proc/" + pid + "/environ")
	mem, memory := os.Open("/proc/" + pid + "/mem")
	if memory == nil {
		mem.Close()
	}
	id, err := strconv.Atoi(pid)
	return map[string]bool{
		"its key": key == nil, "its store": values == nil, "its environment": environ == nil, "its memory": memory == nil,
		"signals": err == nil && unix.Kill(id, 0) == nil, "root": unix.Setuid(0) == nil,
	}
}

// program starts this program as a user, with a worker.
func program(t *testing.T, uid int, env ...string) (p *exec.Cmd, in io.WriteCloser, out io.Reader, log *bytes.Buffer) {
	p, log = exec.Command("/proc/self/exe"), new(bytes.Buffer)
	p.Dir, p.Env, p.Stderr = "/", append(os.Environ(), env...), log
	p.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	in, err := p.StdinPipe()
	if err == nil {
		out, err = p.StdoutPipe()
	}
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return p, in, out, log
}

// A program that root starts goes on as one user, and its broker as another, and then it can read neither the
// broker's memory nor its files: what demands L1 is issued. The same program as an ordinary user can read the
// files, and as root all; its secrets are L1-dev.
func TestSeparate(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	const worker, broker = 65521, 65522
	for _, c := range []struct {
		name       string
		user       string // as the program is told; empty: what it does by itself
		uid, owner int    // that starts it, and of the store
		level      identity.Level
		want       map[string]bool
	}{
		{"two users", "", 0, broker, identity.L1, map[string]bool{}},
		{"one user", "root", worker, worker, identity.L1Dev, map[string]bool{"its key": true, "its store": true, "signals": true, "a broker for another database": true}},
		{"root", "root", 0, 0, identity.L1Dev, map[string]bool{"its key": true, "its store": true, "its environment": true, "its memory": true, "signals": true, "root": true, "a broker for another database": true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool, schema := testenv.Postgres(t)
			if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{Schema: schema}); err != nil {
				t.Fatal(err)
			}
			client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema})
			if err != nil {
				t.Fatal(err)
			}
			profiles, err := identity.New(pool, identity.Options{Schema: schema})
			if err != nil {
				t.Fatal(err)
			}
			err = profiles.Put(t.Context(), identity.Profile{Name: "main", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{
				"DEPLOY_TOKEN": {Ref: "file://deploy-token", Commands: []string{"sh"}, MinLevel: c.level}, "REGION": {Knob: "eu"},
			}})
			if err != nil {
				t.Fatal(err)
			}
			store := storeOf(t, c.owner)
			p, in, out, log := program(t, c.uid, envUser+"="+c.user, envStore+"="+store, envDatabase+"="+pool.Config().ConnString(), envSchema+"="+schema)
			defer p.Wait()
			defer in.Close()
			for first := true; ; first = false {
				run, err := ship.Enqueue(t.Context(), client, "now", workflow.EnqueueOptions{Tenant: "acme"})
				if err != nil {
					t.Fatal(err)
				}
				result, err := outcome(t, client, run)
				if want := hashed(token + "acme"); err != nil || len(result) != 2 || result[1] != want {
					in.Close()
					p.Wait()
					t.Fatalf("got %q, %v\n%s", result, err, log)
				}
				if !first {
					break
				}
				if err := kill(brokerOf(t, store)); err != nil { // the next has another
					t.Fatal(err)
				}
			}
			var level string
			if err := pool.QueryRow(t.Context(), "SELECT string_agg(DISTINCT level, ' ') FROM "+schema+".issue").Scan(&level); err != nil || level != c.level.String() {
				t.Errorf("on record is level %q, %v", level, err)
			}
			fmt.Fprintln(in, brokerOf(t, store))
			line, err := bufio.NewReader(out).ReadBytes('\n')
			got := make(map[string]bool)
			if err == nil {
				err = json.Unmarshal(line, &got)
			}
			maps.DeleteFunc(got, func(_ string, open bool) bool { return !open })
			if err != nil || !maps.Equal(got, c.want) {
				t.Errorf("the worker has %v, want %v; %v", got, c.want, err)
			}
			if c.level >= identity.L1 {
				stranded(t, client, brokerOf(t, store))
			}
			in.Close()
			if err := p.Wait(); err != nil || strings.Contains(log.String(), token) {
				t.Errorf("%v\n%s", err, log)
			}
		})
	}
}

// stranded ends what starts brokers, and the one that it has started. A run that needs one goes back,
// and then is left to others; one that needs none is executed.
func stranded(t *testing.T, client *workflow.Client, pid string) {
	t.Helper()
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "PPid:")
	launcher := strings.Fields(after)[0]
	if err := errors.Join(kill(launcher), kill(pid)); err != nil {
		t.Fatal(err)
	}
	run, err := ship.Enqueue(t.Context(), client, "now", workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	becomes(t, client, run.ID, "no_worker")
	plain, err := words.Enqueue(t.Context(), client, "ada", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := outcome(t, client, plain); err != nil || out != "ADA" {
		t.Errorf("got %q, %v", out, err)
	}
}

// A worker that has given up root has no broker for another database either if it needs none, or has another.
func TestSeparateWithoutBroker(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	pool, schema := testenv.Postgres(t)
	if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	store := storeOf(t, 65522) // a broker would start
	for _, at := range []string{"", "unix:///nowhere/socket"} {
		p, in, out, log := program(t, 0, envUser+"=", envStore+"="+store, envBroker+"="+at, envDatabase+"="+pool.Config().ConnString(), envSchema+"="+schema)
		run, err := words.Enqueue(t.Context(), client, "ada", workflow.EnqueueOptions{})
		if err == nil {
			_, err = outcome(t, client, run) // it works
		}
		can := make(map[string]bool)
		if err == nil {
			fmt.Fprintln(in, p.Process.Pid)
			err = json.NewDecoder(out).Decode(&can)
		}
		in.Close()
		if err := errors.Join(err, p.Wait()); err != nil || can["root"] || can["a broker for another database"] {
			t.Errorf("broker %q: the worker has %v; %v\n%s", at, can, err, log)
		}
	}
}

// Who cannot become the default users goes on as root, and says so.
func TestStaysRoot(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	for why, groups := range map[string]bool{"no setgroups": false, "no user 65521": true} {
		p := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^$")
		p.Dir = "/"
		p.Env = append(os.Environ(), envUser+"=")
		p.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: one, GidMappings: one, GidMappingsEnableSetgroups: groups}
		if out, err := p.CombinedOutput(); err != nil || !strings.Contains(string(out), "stays root") || !strings.Contains(string(out), why) {
			t.Errorf("%s: %v: %s", why, err, out)
		}
	}
}

// storeOf makes a file store of a user.
func storeOf(t *testing.T, uid int) string {
	t.Helper()
	base, err := os.MkdirTemp("", "bootstrap")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	dir := filepath.Join(base, "store")
	s, err := filestore.Open(filestore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "acme", "deploy-token", []byte(token+"acme")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	err = filepath.WalkDir(base, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, uid)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func kill(pid string) error {
	id, err := strconv.Atoi(pid)
	if err != nil {
		return err
	}
	return unix.Kill(id, unix.SIGKILL)
}

// brokerOf returns the process of the broker with a store.
func brokerOf(t *testing.T, store string) string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		env, err := os.ReadFile(path)
		if err == nil && bytes.Contains(env, []byte("STEPWARD_BROKER=1\x00")) && bytes.Contains(env, []byte("\x00"+envStore+"="+store+"\x00")) {
			return strings.Split(path, "/")[2]
		}
	}
	t.Fatal("there is no broker")
	return ""
}
