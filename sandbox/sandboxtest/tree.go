package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// odd are names that a shell, a terminal or a log would trip over.
var odd = []string{"new\nline", "esc\x1b[2J", "rtl\u202egnp.exe", "invalid\xff\xfe", "-rf", "sp ace", `C:\x`, "ünï", "*"}

// testTree uploads and downloads trees. What a sandbox holds is made to harm who
// takes it: each case is taken as plain files, or refused by a typed error.
func testTree(t *testing.T, s *sandbox.Sandbox) {
	made := func(t *testing.T, kind string, args ...string) string {
		t.Helper()
		dir := "/workspace/trees/" + kind
		run(t, s, "tree", append([]string{kind, dir}, args...)...)
		return dir
	}
	download := func(t *testing.T, from string, o sandbox.DownloadOptions) (string, error) {
		t.Helper()
		to := filepath.Join(t.TempDir(), "to")
		return to, s.Download(bounded(t), from, to, o)
	}
	refused := func(t *testing.T, err error, path, limit string) {
		t.Helper()
		var te *sandbox.TreeError
		if !errors.As(err, &te) || !strings.HasPrefix(te.Path, path) || te.Limit != limit {
			t.Errorf("got %v, want a TreeError of %s, limit %q", err, path, limit)
		}
	}

	t.Run("there and back", func(t *testing.T) {
		from := made(t, "good")
		dir, err := download(t, from, sandbox.DownloadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Upload(bounded(t), os.DirFS(dir), "trees/again"); err != nil {
			t.Fatal(err)
		}
		if err := s.Upload(bounded(t), os.DirFS(dir), "trees/again"); err != nil {
			t.Errorf("once more, over what is there: %v", err)
		}
		again, err := download(t, "trees/again", sandbox.DownloadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{dir, again} {
			for name, mode := range map[string]fs.FileMode{"run": 0o755, "read": 0o440, "a/b/deep": 0o644} {
				info, err := os.Lstat(filepath.Join(dir, name))
				if err != nil || info.Mode() != mode || time.Since(info.ModTime()) > time.Hour {
					t.Errorf("%s: %v, %v, %v", name, info.Mode(), info.ModTime(), err)
				}
				if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != name {
					t.Errorf("%s: %q, %v", name, got, err)
				}
			}
			for name, want := range map[string]string{"link": "a/b/deep", "a/up": "../run"} {
				if to, err := os.Readlink(filepath.Join(dir, name)); err != nil || to != want {
					t.Errorf("%s: %q, %v", name, to, err)
				}
			}
			if info, err := os.Stat(filepath.Join(dir, "empty")); err != nil || !info.IsDir() {
				t.Errorf("empty: %v", err)
			}
		}
	})
	t.Run("upload", func(t *testing.T) {
		ctx := bounded(t)
		big := bytes.Repeat([]byte("stepward"), 1<<18)
		if err := s.Upload(ctx, fstest.MapFS{"x/big": {Data: big, Mode: 0o755}, "y": {}}, "/tmp/up"); err != nil {
			t.Fatal(err)
		}
		if got, err := s.ReadFile(ctx, "/tmp/up/x/big"); err != nil || !bytes.Equal(got, big) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		// A link that the sandbox has put there is replaced, not followed.
		run(t, s, "tree", "link", "/tmp/up/y", "/workspace/victim")
		if err := s.Upload(ctx, fstest.MapFS{"y": {Data: []byte("new")}}, "/tmp/up"); err != nil {
			t.Error(err)
		}
		if _, err := s.ReadFile(ctx, "victim"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it wrote through a link: %v", err)
		}
		for _, to := range []string{"/etc/x", "/proc", "\xff"} {
			if err := s.Upload(ctx, fstest.MapFS{"f": {}}, to); err == nil {
				t.Errorf("Upload to %q succeeded", to)
			}
		}
		if err := s.Upload(ctx, fstest.MapFS{"pipe": {Mode: fs.ModeNamedPipe}}, "/tmp/up"); err == nil {
			t.Error("a pipe was uploaded")
		} else {
			refused(t, err, "pipe", "")
		}
	})
	t.Run("link out of the tree", func(t *testing.T) {
		for name, to := range map[string]string{"absolute": "/etc/passwd", "above": "../../etc/passwd", "around": "d/../../x"} {
			dir := "/workspace/trees/links-" + name
			run(t, s, "tree", "good", dir)
			run(t, s, "tree", "link", dir+"/zlink", to)
			_, err := download(t, dir, sandbox.DownloadOptions{})
			refused(t, err, "zlink", "")
			var skipped []string
			got, err := download(t, dir, sandbox.DownloadOptions{Skip: func(te *sandbox.TreeError) { skipped = append(skipped, te.Path) }})
			if err != nil || !slices.Equal(skipped, []string{"zlink"}) {
				t.Errorf("to be skipped: %q, %v", skipped, err)
			}
			if _, err := os.Lstat(filepath.Join(got, "zlink")); err == nil {
				t.Error("it was made")
			}
			if _, err := os.Stat(filepath.Join(got, "a/b/deep")); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("hard link", func(t *testing.T) {
		dir, err := download(t, made(t, "hardlink"), sandbox.DownloadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		one, err1 := os.Stat(filepath.Join(dir, "one"))
		two, err2 := os.Stat(filepath.Join(dir, "two"))
		if err := errors.Join(err1, err2); err != nil || os.SameFile(one, two) {
			t.Errorf("one file, not two, or %v", err)
		}
	})
	t.Run("pipe and socket", func(t *testing.T) {
		for _, kind := range []string{"fifo", "socket"} {
			_, err := download(t, made(t, kind), sandbox.DownloadOptions{})
			refused(t, err, "", "")
		}
		if _, err := download(t, "/dev", sandbox.DownloadOptions{Skip: func(*sandbox.TreeError) {}}); err != nil {
			t.Errorf("of /dev nothing is taken: %v", err)
		}
	})
	t.Run("limits", func(t *testing.T) {
		_, err := download(t, made(t, "sparse"), sandbox.DownloadOptions{})
		refused(t, err, "hole", "MaxBytes")
		_, err = download(t, made(t, "many"), sandbox.DownloadOptions{MaxFiles: 299})
		refused(t, err, "", "MaxFiles")
		if _, err = download(t, "trees/many", sandbox.DownloadOptions{MaxFiles: 300}); err != nil {
			t.Error(err)
		}
		_, err = download(t, made(t, "deep"), sandbox.DownloadOptions{})
		refused(t, err, "d/d/d/", "MaxDepth")
	})
	t.Run("permissions", func(t *testing.T) {
		dir, err := download(t, made(t, "setuid"), sandbox.DownloadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"u", "g", "t"} {
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != 0o755 {
				t.Errorf("%s: %v, %v", name, info.Mode(), err)
			}
		}
	})
	t.Run("names", func(t *testing.T) {
		dir, err := download(t, made(t, "odd"), sandbox.DownloadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != len(odd) {
			t.Errorf("%d entries of %d: %v", len(entries), len(odd), err)
		}
		for _, e := range entries {
			if got, err := os.ReadFile(filepath.Join(dir, e.Name())); err != nil || string(got) != e.Name() || !slices.Contains(odd, e.Name()) {
				t.Errorf("%q holds %q, %v", e.Name(), got, err)
			}
		}
	})
	t.Run("compressed", func(t *testing.T) { // nothing that a sandbox holds is decompressed
		for _, magic := range []string{"\x1f\x8b\x08\x00", "BZh9", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
			if err := s.WriteFile(bounded(t), "trees/compressed/bomb", []byte(magic+"not really"), 0o644); err != nil {
				t.Fatal(err)
			}
			dir, err := download(t, "trees/compressed", sandbox.DownloadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "bomb")); err != nil || string(got) != magic+"not really" {
				t.Errorf("%q, %v", got, err)
			}
		}
	})
	t.Run("in the way", func(t *testing.T) { // also by another case of its name, where that is the same
		to := t.TempDir()
		if err := os.WriteFile(filepath.Join(to, "one"), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := s.Download(bounded(t), "trees/hardlink", to, sandbox.DownloadOptions{Skip: func(*sandbox.TreeError) {}})
		refused(t, err, "one", "")
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("%v is not ErrExist", err)
		}
		if got, _ := os.ReadFile(filepath.Join(to, "one")); string(got) != "mine" {
			t.Errorf("it was replaced by %q", got)
		}
	})
	t.Run("moving", func(t *testing.T) {
		for _, kind := range []string{"swap", "grow"} {
			dir := "/workspace/trees/" + kind
			ctx, cancel := context.WithCancel(bounded(t))
			c := s.Command(program, "probe:tree", kind, dir)
			w := newWaiter()
			c.Stdout = w
			if err := c.Start(ctx); err != nil {
				t.Fatal(err)
			}
			w.wait(t)
			taken := 0
			for range 40 {
				got, err := download(t, dir, sandbox.DownloadOptions{Skip: func(*sandbox.TreeError) {}})
				if err != nil {
					continue // it saw that something moved
				}
				taken++
				if raw, err := os.ReadFile(filepath.Join(got, "d/passwd")); err == nil && string(raw) != "d/passwd" {
					t.Fatalf("it took another file: %.40q", raw)
				}
				if _, err := os.Stat(filepath.Join(got, "d/os-release")); err == nil {
					t.Fatal("it took another directory")
				}
			}
			t.Logf("%s: %d of 40 were taken", kind, taken)
			cancel()
			_ = c.Wait()
		}
	})
	t.Run("nothing there", func(t *testing.T) {
		if _, err := download(t, "none", sandbox.DownloadOptions{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a tree that does not exist: %v", err)
		}
		if _, err := download(t, program, sandbox.DownloadOptions{}); err == nil {
			t.Error("a file was taken as a tree")
		}
		if _, err := download(t, "\xff", sandbox.DownloadOptions{}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("a name that is not UTF-8: %v", err)
		}
	})
	if err := s.Command(program, "probe:remove", "/workspace/trees").Run(bounded(t)); err != nil {
		t.Error(err)
	}
}
