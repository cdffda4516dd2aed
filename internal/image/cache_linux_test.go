package image_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/image"
	"github.com/stepward/stepward/internal/image/imagetest"
)

// open opens an image until the test ends.
func open(t testing.TB, path string) *image.Image {
	t.Helper()
	i, err := image.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

// saved writes an image that has something to unpack.
func saved(t testing.TB, files int) string {
	t.Helper()
	var entries []imagetest.Entry
	for n := range files {
		entries = append(entries, imagetest.Dir(fmt.Sprint("d", n), 0o500), imagetest.File(fmt.Sprintf("d%d/f", n), "content", 0o444))
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	imagetest.Save(t, path, imagetest.Image{Layers: [][]byte{imagetest.Layer(t, entries...)}})
	return path
}

// worker is another process that uses an image: it says where the tree is, and ends
// with its input.
func worker(t testing.TB, c image.Cache, path string) (*exec.Cmd, io.WriteCloser, *bufio.Reader) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestWorker$")
	cmd.Env = append(os.Environ(), "CACHE="+c.Dir, "IMAGE="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, in, bufio.NewReader(out)
}

// TestWorker is that process.
func TestWorker(t *testing.T) {
	if os.Getenv("CACHE") == "" {
		return
	}
	i := open(t, os.Getenv("IMAGE"))
	r, err := (image.Cache{Dir: os.Getenv("CACHE"), Max: 1 << 30}).Root(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	n, err := filepath.Glob(r.Path + "/d*/f")
	fmt.Println(r.Path, len(n), err)
	_, _ = io.Copy(io.Discard, os.Stdin)
	r.Close()
}

// Processes and goroutines that want one image at the same time unpack it once, and
// each finds all of it.
func TestTwoProcesses(t *testing.T) {
	const files = 500
	path, c := saved(t, files), newCache(t)
	c.Max = 1 << 30
	var ins []io.Closer
	var outs []*bufio.Reader
	var all sync.WaitGroup
	var cmds []*exec.Cmd
	for range 2 {
		cmd, in, out := worker(t, c, path)
		cmds, ins, outs = append(cmds, cmd), append(ins, in), append(outs, out)
	}
	for range 4 {
		all.Go(func() {
			i, err := image.Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer i.Close()
			r, err := c.Root(t.Context(), i)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if n, err := filepath.Glob(r.Path + "/d*/f"); err != nil || len(n) != files {
				t.Errorf("%d files, %v", len(n), err)
			}
		})
	}
	all.Wait()
	for n := range cmds { // each of them while both use the tree
		line, err := outs[n].ReadString('\n')
		if want := fmt.Sprintf(" %d <nil>\n", files); err != nil || !strings.HasSuffix(line, want) {
			t.Errorf("a process: %q, %v; want %q", line, err, want)
		}
	}
	for n := range cmds {
		ins[n].Close()
		_, _ = io.Copy(io.Discard, outs[n])
		if err := cmds[n].Wait(); err != nil {
			t.Error(err)
		}
	}
	entries, err := os.ReadDir(c.Dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v; want a tree and its lock", entries, err)
	}
}

// A process that dies while it unpacks leaves no tree, and the next one is not held up.
func TestKilledWhileUnpacking(t *testing.T) {
	path, c := saved(t, 5000), newCache(t)
	c.Max = 1 << 30
	cmd, _, out := worker(t, c, path)
	for begun := false; !begun && t.Context().Err() == nil; {
		begun = slices.ContainsFunc(names(c), func(n string) bool { return strings.HasSuffix(n, ".part") })
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	left := names(c)
	if !slices.ContainsFunc(left, func(n string) bool { return strings.HasSuffix(n, ".part") }) {
		t.Fatalf("it was done before it was killed: %v", left)
	}

	// Another image's coming removes it, and so does the same one's.
	other, err := c.Root(t.Context(), open(t, saved(t, 1)))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if n := names(c); len(n) != 3 { // a tree, its lock, and the lock of what is gone
		t.Errorf("%v", n)
	}
	r, err := c.Root(t.Context(), open(t, path))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := filepath.Glob(r.Path + "/d*/f"); err != nil || len(n) != 5000 {
		t.Errorf("%d files, %v", len(n), err)
	}
}

func names(c image.Cache) (out []string) {
	entries, _ := os.ReadDir(c.Dir)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// A tree that nobody has used for long goes when another image comes, unless it is in
// use.
func TestUnused(t *testing.T) {
	c := newCache(t)
	used, err := c.Root(t.Context(), open(t, saved(t, 1)))
	if err != nil {
		t.Fatal(err)
	}
	defer used.Close()
	unused, err := c.Root(t.Context(), open(t, saved(t, 2)))
	if err != nil {
		t.Fatal(err)
	}
	unused.Close()
	recent, err := c.Root(t.Context(), open(t, saved(t, 3)))
	if err != nil {
		t.Fatal(err)
	}
	recent.Close()
	old := time.Now().Add(-31 * 24 * time.Hour)
	for _, r := range []*image.Root{used, unused} {
		if err := os.Chtimes(r.Path+".lock", old, old); err != nil {
			t.Fatal(err)
		}
	}
	last, err := c.Root(t.Context(), open(t, saved(t, 4)))
	if err != nil {
		t.Fatal(err)
	}
	last.Close()
	for r, want := range map[*image.Root]bool{used: true, unused: false, recent: true, last: true} {
		if _, err := os.Stat(r.Path); (err == nil) != want {
			t.Errorf("%s: %v", r.Path, err)
		}
	}
	again, err := c.Root(t.Context(), open(t, saved(t, 2)))
	if err != nil || again.Path != unused.Path {
		t.Fatalf("what went is wanted again: %v", err)
	}
	again.Close()
}

// Who may write to the directory could write to every sandbox's root.
func TestCacheOfOthers(t *testing.T) {
	path := saved(t, 1)
	for _, mode := range []os.FileMode{0o720, 0o702} {
		c := image.Cache{Dir: t.TempDir(), Max: 1 << 20}
		if err := os.Chmod(c.Dir, mode); err != nil {
			t.Fatal(err)
		}
		var ie *image.Error
		if _, err := c.Root(t.Context(), open(t, path)); !errors.As(err, &ie) || !strings.Contains(ie.Reason, "written to by others") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	var ie *image.Error
	if _, err := (image.Cache{Dir: "/proc/none", Max: 1 << 20}).Root(t.Context(), open(t, path)); !errors.As(err, &ie) {
		t.Errorf("no directory: %v", err)
	}
}

// The end of a context ends the work, and leaves nothing.
func TestCanceled(t *testing.T) {
	c := newCache(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if _, err := c.Root(ctx, open(t, saved(t, 1))); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	onlyIn(t, c, "")
}

// A loader is looked for as it will be found inside.
func TestHas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image.tar")
	imagetest.Save(t, path, imagetest.Image{Layers: [][]byte{imagetest.Layer(t,
		imagetest.Dir("usr/lib", 0o755), imagetest.File("usr/lib/libc.so", "", 0o755), imagetest.Link("lib", "/usr/lib"), imagetest.Link("usr/lib/ld.so", "libc.so"),
		imagetest.Link("usr/lib/abs.so", "/lib/ld.so"), imagetest.Link("host", "/../../proc/self/exe"), imagetest.Link("loop", "loop"),
	)}})
	r, err := newCache(t).Root(t.Context(), open(t, path))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for name, want := range map[string]bool{
		"/lib/ld.so": true, "/lib/abs.so": true, "/usr/lib/libc.so": true, "/lib/none.so": false, "/lib": false, "/host": false, "/loop": false, "/usr/lib/libc.so/x": false,
	} {
		if r.Has(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}
