package sandbox_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// Directories keep their permissions, in which their owner may do everything all the same,
// and their times: whatever the umask is, and though files came into them.
func TestTreeDirectories(t *testing.T) {
	s, err := sandbox.Start(t.Context(), local.New(local.Config{Program: sandboxtest.BuildProbe(t)}), sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.WithoutCancel(t.Context()))
	tree, at := fstest.MapFS{}, time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	dirs := []struct {
		name       string
		perm, want fs.FileMode
	}{
		{"all", 0o777, 0o777},
		{"all/group", 0o770, 0o770},
		{"all/group/read", 0o555, 0o755},
		{"all/later", 0o755, 0o755},
		{"none", 0, 0o700},
		{"owner", 0o700, 0o700},
	}
	for i, d := range dirs {
		tree[d.name] = &fstest.MapFile{Mode: fs.ModeDir | d.perm, ModTime: at.AddDate(i, 0, 0)}
		tree[d.name+"/file"] = &fstest.MapFile{Data: []byte(d.name), Mode: 0o644, ModTime: at}
	}
	if err := s.Upload(t.Context(), tree, "up"); err != nil {
		t.Fatal(err)
	}
	down := filepath.Join(t.TempDir(), "down")
	if err := s.Download(t.Context(), "up", down, sandbox.DownloadOptions{}); err != nil {
		t.Fatal(err)
	}
	for i, d := range dirs {
		want := fmt.Sprintf("%o %d", d.want, at.AddDate(i, 0, 0).Unix())
		inside, err := s.Command("stat", "-c", "%a %Y", "up/"+d.name).Output(t.Context())
		if err != nil || string(inside) != want+"\n" {
			t.Errorf("%s in the sandbox: %q, %v, want %s", d.name, inside, err, want)
		}
		info, err := os.Stat(filepath.Join(down, d.name))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%o %d", info.Mode().Perm(), info.ModTime().Unix()); got != want {
			t.Errorf("%s outside: %s, want %s", d.name, got, want)
		}
	}

	// What is there stays what it is, and a tree can be taken, and brought, once more.
	other := filepath.Join(t.TempDir(), "other")
	if err := os.MkdirAll(filepath.Join(other, "all"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Download(t.Context(), "up", other, sandbox.DownloadOptions{}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(other, "all")); err != nil || info.Mode().Perm() != 0o700 || info.ModTime().Before(at.AddDate(20, 0, 0)) {
		t.Errorf("a directory that was there: %v, %v", info, err)
	}
	if err := s.Upload(t.Context(), tree, "up"); err != nil {
		t.Error(err)
	}
}
