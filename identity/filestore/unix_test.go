//go:build unix

package filestore_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepward/stepward/identity/filestore"
)

// Case 53: what others could read or change is not used, and the error says which file it is.
func TestMode(t *testing.T) {
	for _, test := range []struct {
		file string
		mode os.FileMode
	}{
		{".key", 0o644}, {".key", 0o640}, {".key", 0o620}, {"/index", 0o644}, {"/key.age", 0o660}, {"/records/*", 0o644}, {".mark", 0o602}, {"", 0o750},
	} {
		c := place(t)
		s := open(t, c)
		put(t, s, "acme", "token", "x")
		s.Close()
		files, err := filepath.Glob(c.Dir + test.file)
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if err := os.Chmod(files[0], test.mode); err != nil {
			t.Fatal(err)
		}
		s, err = filestore.Open(c)
		if err == nil {
			_, err = get(s, "acme", "token", "")
			s.Close()
		}
		mode, ok := errors.AsType[*filestore.ModeError](err)
		if !ok || mode.Path != files[0] || mode.Mode.Perm() != test.mode || !strings.Contains(err.Error(), files[0]) {
			t.Errorf("%s with mode %o: %v", test.file, test.mode, err)
		}
	}
}

// What is another user's is refused as that: of its mode there is nothing to mend.
func TestOwner(t *testing.T) {
	c := filestore.Config{Dir: "/", Identity: t.TempDir() + "/key", Mark: t.TempDir() + "/mark"}
	want := "/ is user 0's"
	if os.Geteuid() == 0 {
		c = place(t)
		open(t, c).Close()
		if err := os.Chown(c.Dir, 65522, -1); err != nil {
			t.Fatal(err)
		}
		want = c.Dir + " is user 65522's"
	}
	_, err := filestore.Open(c)
	if _, ok := errors.AsType[*filestore.ModeError](err); !ok || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}

func TestModesOfWhatIsMade(t *testing.T) {
	c := place(t)
	put(t, open(t, c), "acme", "token", "x")
	for path, want := range map[string]os.FileMode{
		c.Dir: 0o700, c.Dir + "/records": 0o700, c.Dir + "/index": 0o600, c.Dir + "/key.age": 0o600, c.Dir + "/lock": 0o600, c.Dir + ".key": 0o600, c.Dir + ".mark": 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

// A link leads nowhere out of the store.
func TestLink(t *testing.T) {
	c := place(t)
	s := open(t, c)
	put(t, s, "acme", "token", "x")
	outside := filepath.Join(t.TempDir(), "index")
	index := filepath.Join(c.Dir, "index")
	data, err := os.ReadFile(index)
	if err := errors.Join(err, os.WriteFile(outside, data, 0o600), os.Remove(index), os.Symlink(outside, index)); err != nil {
		t.Fatal(err)
	}
	if got, err := get(s, "acme", "token", ""); err == nil {
		t.Errorf("through a link: %q", got)
	}
}
