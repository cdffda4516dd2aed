package docker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/stepward/stepward/sandbox"
)

const testToken = "a token of the life tests"

func creation(id string) sandbox.Creation {
	return sandbox.Creation{
		ID: id, TokenHash: sha256.Sum256([]byte(testToken)), OrphanAfter: 10 * time.Second,
		Labels: sandbox.Labels{Schema: "life-" + id, Database: "17-5", Session: -5, Run: 3, Step: "a/b[1]", Attempt: 2, Epoch: 4},
	}
}

// TestSandboxOutlivesWorker kills a process that made a sandbox and holds a
// connection to it; this process dials the sandbox and goes on.
func TestSandboxOutlivesWorker(t *testing.T) {
	if id := os.Getenv("DOCKER_TEST_WORKER"); id != "" {
		b := New(Config{Host: os.Getenv("DOCKER_TEST_HOST"), Program: os.Getenv("DOCKER_TEST_PROGRAM"), Image: emptyImage})
		if _, err := b.Create(t.Context(), creation(id)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.ask(t.Context(), id, []byte(testToken)); err != nil {
			t.Fatal(err)
		}
		proc, err := os.FindProcess(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		_ = proc.Kill()
		select {}
	}
	for _, exe := range []bool{false, true} {
		t.Run(fmt.Sprintf("exec=%v", exe), func(t *testing.T) {
			b := backend(t)
			b.noBind = exe
			id := fmt.Sprintf("outlive-%v-%d", exe, os.Getpid())
			c := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestSandboxOutlivesWorker$")
			c.Env = append(os.Environ(), "DOCKER_TEST_WORKER="+id, "DOCKER_TEST_HOST="+b.config.Host, "DOCKER_TEST_PROGRAM="+b.config.Program)
			out, err := c.CombinedOutput()
			if err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the worker was not killed: %v\n%s", err, out)
			}
			f, err := b.ask(t.Context(), id, []byte(testToken))
			if err != nil {
				t.Fatalf("dial what another process made: %v", err)
			}
			if !f.seccomp || f.landlock == 0 {
				t.Errorf("the runner found %+v", f)
			}
			listed, err := b.List(t.Context(), "life-"+id)
			if err != nil || len(listed) != 1 || listed[0].ID != id || listed[0].Labels != creation(id).Labels {
				t.Errorf("List: %+v, %v", listed, err)
			}
			if err := b.Destroy(t.Context(), id); err != nil {
				t.Error(err)
			}
			b.nothingLeft(t, id)
		})
	}
}

// TestNeverStarted has a container whose maker died before it started it. Any
// installation removes it, once it cannot be one that is about to be started.
func TestNeverStarted(t *testing.T) {
	b := backend(t)
	if _, err := b.Probe(t.Context()); err != nil { // loads the image
		t.Fatal(err)
	}
	c := creation(fmt.Sprintf("unstarted-%d", os.Getpid()))
	_, err := b.api.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Name: containerName(c.ID), Config: &container.Config{Image: emptyImage, Entrypoint: []string{"/none"}, Labels: labels(c.ID, c.Labels)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := b.List(t.Context(), c.Labels.Schema); err != nil || len(l) != 1 {
		t.Errorf("one that was just made: %v, %v", l, err)
	}
	b.unstarted = -time.Minute
	if l, err := b.List(t.Context(), "another"); err != nil || len(l) != 0 {
		t.Errorf("of another installation: %v, %v", l, err)
	}
	b.nothingLeft(t, c.ID)
}

// TestOrphanLeavesNothing has nobody connect: the container ends by itself.
func TestOrphanLeavesNothing(t *testing.T) {
	b := backend(t)
	c := creation(fmt.Sprintf("orphan-%d", os.Getpid()))
	c.OrphanAfter = 500 * time.Millisecond
	if _, err := b.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	gone := b.api.ContainerWait(t.Context(), containerName(c.ID), client.ContainerWaitOptions{Condition: "removed"})
	select {
	case <-gone.Result:
	case <-gone.Error: // it went before we asked
	case <-time.After(30 * time.Second):
		t.Fatal("the container is still there")
	}
	// Only the directory is left, which goes at the next List once it is old.
	dir := filepath.Join(socketRoot(), b.engine.key+"-"+c.ID)
	old := time.Now().Add(-socketGrace - time.Second)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := b.List(t.Context(), "any"); err != nil {
		t.Fatal(err)
	}
	b.nothingLeft(t, c.ID)
	if _, err := b.Dial(t.Context(), c.ID); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("Dial: %v, want ErrLost", err)
	}
}

// Whoever may ask the engine about a container learns neither the token of its
// tool runner nor anything of the worker's environment.
func TestInspectShowsNothing(t *testing.T) { testInspectShowsNothing(t, backend(t)) }

func testInspectShowsNothing(t *testing.T, b *Backend) {
	c := creation(fmt.Sprintf("inspect-%d", os.Getpid()))
	t.Setenv("SUITE_LEAK", "worker-secret")
	since := fmt.Sprint(time.Now().Unix())
	if _, err := b.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	defer b.Destroy(context.WithoutCancel(t.Context()), c.ID)
	shown, err := b.api.ContainerInspect(t.Context(), containerName(c.ID), client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(shown)
	if err != nil || !bytes.Contains(raw, []byte(labelID)) {
		t.Fatalf("%s, %v", raw, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := b.api.Events(ctx, client.EventsListOptions{Since: since, Filters: client.Filters{}.Add("container", containerName(c.ID))})
	for started := false; !started; {
		select {
		case e := <-events.Messages:
			line, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			raw = append(raw, line...)
			started = e.Action == "start"
		case err := <-events.Err:
			t.Fatal(err)
		case <-time.After(time.Minute):
			t.Fatal("no event of its start")
		}
	}
	encodings := []string{testToken, base64.StdEncoding.EncodeToString([]byte(testToken)), hex.EncodeToString([]byte(testToken)), "worker-secret"}
	for _, secret := range encodings {
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("%q is in %s", secret, raw)
		}
	}
}

// A sandbox cannot write to the directory that it shares with the host, and a
// connection through docker exec leaves no process behind.
func TestSharedDirectoryAndDialProcess(t *testing.T) {
	b := backend(t)
	c := creation(fmt.Sprintf("shared-%d", os.Getpid()))
	if _, err := b.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	defer b.Destroy(context.WithoutCancel(t.Context()), c.ID)
	dir := socketDir(filepath.Join(socketRoot(), b.engine.key+"-"+c.ID))
	for path, want := range map[string]fs.FileMode{socketRoot(): 0o700, string(dir): 0o700, dir.shared(): 0o755} {
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, fi.Mode(), err, want)
		}
	}

	conn, err := b.dialExec(t.Context(), b.api, containerName(c.ID), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	dials := func() (n int) {
		top, err := b.api.ContainerTop(t.Context(), containerName(c.ID), client.ContainerTopOptions{Arguments: []string{"-eo", "pid,ppid,args"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range top.Processes {
			if strings.HasPrefix(p[len(p)-1], ProgramPath) {
				n++
			}
		}
		return n
	}
	if n := dials(); n != 2 {
		t.Errorf("%d processes of the program, want the runner and the dial", n)
	}
	conn.Close()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for dials() != 1 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the dial process outlives its connection")
		}
	}
}

// nothingLeft checks that neither container, volume nor directory is there.
func (b *Backend) nothingLeft(t *testing.T, id string) {
	t.Helper()
	filter := client.Filters{}.Add("label", labelID+"="+id)
	if l, err := b.api.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: filter}); err != nil || len(l.Items) > 0 {
		t.Errorf("containers left: %v, %v", l.Items, err)
	}
	if l, err := b.api.VolumeList(t.Context(), client.VolumeListOptions{Filters: filter}); err != nil || len(l.Items) > 0 {
		t.Errorf("volumes left: %v, %v", l.Items, err)
	}
	if _, err := os.Stat(filepath.Join(socketRoot(), b.engine.key+"-"+id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("directory left: %v", err)
	}
}

// TestCommandOutlivesWorker kills a worker in the middle of a command's output.
// Another process opens the sandbox and goes on at the byte where the reader was;
// the command ran once.
func TestCommandOutlivesWorker(t *testing.T) {
	if os.Getenv("DOCKER_TEST_COMMAND") != "" {
		doomed(t)
	}
	testCommandOutlivesWorker(t, backend(t))
}

func TestGVisorCommandOutlivesWorker(t *testing.T) { testCommandOutlivesWorker(t, gvisor(t)) }

// outliving are the numbers that the command prints: more than what is between it and
// its reader holds.
const outliving = 1_000_000

func testCommandOutlivesWorker(t *testing.T, b *Backend) {
	const n = outliving
	c := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestCommandOutlivesWorker$")
	c.Env = append(os.Environ(), "DOCKER_TEST_COMMAND=1", "DOCKER_TEST_HOST="+b.config.Host, "DOCKER_TEST_PROGRAM="+b.config.Program, "DOCKER_TEST_RUNTIME="+b.config.Runtime)
	out, err := c.Output()
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the worker was not killed: %v\n%s", err, out)
	}
	var left struct {
		Handle []byte
		At     int64
	}
	if err := json.Unmarshal(out, &left); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var handle sandbox.Handle
	if err := handle.UnmarshalBinary(left.Handle); err != nil {
		t.Fatal(err)
	}
	s, err := sandbox.Open(t.Context(), b, handle, sandbox.Options{Labels: sandbox.Labels{Epoch: 2}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Destroy(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if _, err := sandbox.Open(t.Context(), b, handle, sandbox.Options{Labels: sandbox.Labels{Epoch: 1}}); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("opened with an epoch that is over: %v, want ErrLost", err)
	}
	var all, rest bytes.Buffer
	for i := range n {
		fmt.Fprintln(&all, i+1)
	}
	a := s.Attach("job", left.At, 0)
	a.Stdout = &rest
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if u := a.Usage(); !bytes.Equal(rest.Bytes(), all.Bytes()[left.At:]) || u.Truncated != 0 || u.Stdout != int64(all.Len()) {
		t.Errorf("from byte %d of %d on: %d bytes, %+v", left.At, all.Len(), rest.Len(), u)
	}
	// Who meant to start it gets the same end, and starts nothing.
	again := s.Command("/workspace/probe", "probe:numbers", fmt.Sprint(n))
	again.ID = "job"
	if err := again.Run(t.Context()); err != nil || again.Usage().Wall != a.Usage().Wall {
		t.Errorf("asked again: %v, %+v", err, again.Usage())
	}
	var gone *sandbox.Sandbox
	handle.ID = "none"
	if gone, err = sandbox.Open(t.Context(), b, handle, sandbox.Options{}); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("a sandbox that is gone: %v, %v", gone, err)
	}
}

// doomed is the worker that is killed.
func doomed(t *testing.T) {
	b := New(Config{Host: os.Getenv("DOCKER_TEST_HOST"), Program: os.Getenv("DOCKER_TEST_PROGRAM"), Runtime: os.Getenv("DOCKER_TEST_RUNTIME")})
	s, err := sandbox.Start(t.Context(), b, sandbox.Options{Labels: sandbox.Labels{Epoch: 1}})
	if err != nil {
		t.Fatal(err)
	}
	probe, err := os.ReadFile(b.config.Program)
	if err == nil {
		err = s.WriteFile(t.Context(), "probe", probe, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	c := s.Command("/workspace/probe", "probe:numbers", fmt.Sprint(outliving))
	c.ID, c.Stdout = "job", w
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	at, err := io.CopyN(io.Discard, r, 100_003)
	if err != nil {
		t.Fatal(err)
	}
	handle, err := s.Handle().MarshalBinary()
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(map[string]any{"Handle": handle, "At": at})
	}
	if err != nil {
		t.Fatal(err)
	}
	proc, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	_ = proc.Kill()
	select {}
}
