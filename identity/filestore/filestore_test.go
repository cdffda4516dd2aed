package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/identity/identitytest"
)

// place returns the configuration of a store in a directory of its own.
func place(t testing.TB) filestore.Config {
	return filestore.Config{Dir: filepath.Join(t.TempDir(), "secrets")}
}

func open(t testing.TB, c filestore.Config) *filestore.Store {
	t.Helper()
	s, err := filestore.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, s *filestore.Store, tenant, name, value string) string {
	t.Helper()
	v, err := s.Put(context.Background(), tenant, name, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func get(s *filestore.Store, tenant, name, version string) (string, error) {
	v, err := s.Get(context.Background(), broker.Request{Tenant: tenant, Path: name, Version: version})
	return string(v.Bytes), err
}

func wants(t testing.TB, s *filestore.Store, tenant, name, value string) {
	t.Helper()
	if got, err := get(s, tenant, name, ""); err != nil || got != value {
		t.Errorf("%s of %q: %q, %v, want %q", name, tenant, got, err, value)
	}
}

func TestStore(t *testing.T) {
	for _, kind := range []string{"identity", "passphrase"} {
		t.Run(kind, func(t *testing.T) {
			identitytest.TestStore(t, func(t *testing.T) identitytest.Fixture {
				c := place(t)
				if kind == "passphrase" {
					c.Passphrase = phrase("correct horse")
				}
				s := open(t, c)
				return identitytest.Fixture{
					Store:  s,
					Binary: true,
					Put: func(t testing.TB, tenant, name string, value []byte) string {
						put(t, s, tenant, name, string(value))
						return name
					},
					Remove: func(t testing.TB, tenant, name string) {
						if err := s.Delete(t.Context(), tenant, name); err != nil {
							t.Fatal(err)
						}
					},
					Destroy: func(t testing.TB, tenant, name, version string) {
						if err := s.Delete(t.Context(), tenant, name, version); err != nil {
							t.Fatal(err)
						}
					},
					Break: func(testing.TB) { s.Close() },
				}
			})
		})
	}
}

func phrase(words string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(words), nil }
}

// A store that nobody has put anything into says so, and no other does.
func TestEmpty(t *testing.T) {
	c := place(t)
	s := open(t, c)
	if _, err := get(s, "acme", "token", ""); !errors.Is(err, broker.ErrEmpty) || !errors.Is(err, broker.ErrNoSecret) || !strings.Contains(err.Error(), c.Dir) {
		t.Errorf("got %v", err)
	}
	put(t, s, "globex", "token", "a value")
	if _, err := get(s, "acme", "token", ""); errors.Is(err, broker.ErrEmpty) || !errors.Is(err, broker.ErrNoSecret) {
		t.Errorf("got %v", err)
	}
	if err := s.Delete(t.Context(), "globex", "token"); err != nil {
		t.Fatal(err)
	}
	if _, err := get(s, "globex", "token", ""); errors.Is(err, broker.ErrEmpty) || !errors.Is(err, broker.ErrNoSecret) {
		t.Errorf("got %v", err)
	}
}

func TestOpenedAgain(t *testing.T) {
	c := place(t)
	s := open(t, c)
	put(t, s, "acme", "token", "one")
	put(t, s, "acme", "dir/token", "two")
	put(t, s, "", "token", "the deployment's")
	s.Close()
	s = open(t, c)
	wants(t, s, "acme", "token", "one")
	wants(t, s, "acme", "dir/token", "two")
	wants(t, s, "", "token", "the deployment's")
	put(t, s, "acme", "token", "three")
	if err := s.Delete(t.Context(), "acme", "token", "1"); err != nil {
		t.Fatal(err)
	}
	versions, err := s.Versions(t.Context(), "acme", "token")
	if err != nil || len(versions) != 2 || !versions[0].Deleted || versions[1].Deleted || versions[1].Version != "2" {
		t.Errorf("versions %v, %v", versions, err)
	}
	if names, err := s.Names(t.Context(), "acme"); err != nil || fmt.Sprint(names) != "[dir/token token]" {
		t.Errorf("names %q, %v", names, err)
	}
}

func TestPutRefuses(t *testing.T) {
	s := open(t, place(t))
	for _, test := range []struct {
		tenant, name string
		size         int
		want         error
		says         string
	}{
		{"acme", "token", 0, broker.ErrValue, "1 to 65536 bytes"}, {"acme", "token", broker.MaxValue + 1, broker.ErrValue, "1 to 65536 bytes"},
		{"acme", "", 1, broker.ErrName, ""}, {"acme", "../token", 1, broker.ErrName, "../token"}, {"acme", "a//b", 1, broker.ErrName, "a//b"},
		{"acme", "a/.b", 1, broker.ErrName, "a/.b"}, {"acme", "tökén", 1, broker.ErrName, "tökén"},
		{"acme", "a b", 1, broker.ErrName, "a b"}, {"acme", strings.Repeat("a", 257), 1, broker.ErrName, "aaa"},
		{strings.Repeat("a", 257), "token", 1, broker.ErrName, "aaa"}, {"\xff", "token", 1, broker.ErrName, `\xff`},
	} {
		value := strings.Repeat("canary", test.size/6+1)[:test.size]
		_, err := s.Put(t.Context(), test.tenant, test.name, []byte(value))
		if !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), test.says) || strings.Contains(fmt.Sprint(err), "canary") {
			t.Errorf("%q of %q with %d bytes: %v", test.name, test.tenant, test.size, err)
		}
		if len(test.name) < 257 && errors.Is(test.want, broker.ErrName) {
			if _, err := get(s, test.tenant, test.name, ""); !errors.Is(err, broker.ErrName) {
				t.Errorf("get %q of %q: %v", test.name, test.tenant, err)
			}
		}
	}
	put(t, s, "acme", strings.Repeat("a", 256), "x")
	if err := s.Delete(t.Context(), "acme", "token"); !errors.Is(err, broker.ErrNoSecret) {
		t.Errorf("deletion of nothing: %v", err)
	}
	put(t, s, "acme", "token", "x")
	put(t, s, "acme", "token", "y")
	if err := s.Delete(t.Context(), "acme", "token", "1", "3"); !errors.Is(err, broker.ErrNoVersion) {
		t.Errorf("deletion of a version that is not there: %v", err)
	}
	if got, err := get(s, "acme", "token", "1"); err != nil || got != "x" {
		t.Errorf("a deletion that failed deleted: %v", err)
	}
	if err := s.Delete(t.Context(), "acme", "token", "2"); err != nil {
		t.Fatal(err)
	}
	if _, err := get(s, "acme", "token", "2"); !errors.Is(err, broker.ErrNoVersion) {
		t.Errorf("a version that was deleted: %v", err)
	}
	if _, err := get(s, "acme", "token", ""); !errors.Is(err, broker.ErrNoSecret) { // as if there were none
		t.Errorf("the newest, which was deleted: %v", err)
	}
}

// Nothing of a value is in the directory.
func TestNoPlaintext(t *testing.T) {
	c := place(t)
	s := open(t, c)
	put(t, s, "acme", "token", "hunter2-hunter2")
	err := filepath.WalkDir(c.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), "hunter2") {
			t.Errorf("%s has it", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestIdentityIsGone(t *testing.T) {
	c := place(t)
	open(t, c).Close()
	if err := os.Remove(c.Dir + ".key"); err != nil {
		t.Fatal(err)
	}
	_, err := filestore.Open(c)
	if !errors.Is(err, filestore.ErrKey) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the identity: %v", err)
	}
	for _, says := range []string{c.Dir + ".key", "the identity of " + c.Dir + " is gone", "put that file back", "Config.Identity"} { // what, where, and what to do
		if !strings.Contains(err.Error(), says) {
			t.Errorf("without the identity, nothing says %q: %v", says, err)
		}
	}
	if _, err := os.Stat(c.Dir + ".key"); err == nil {
		t.Error("another identity was made, which opens nothing")
	}
}

func TestNoWait(t *testing.T) {
	c := place(t)
	one, two := open(t, c), open(t, c)
	held := make(chan struct{})
	release := make(chan struct{})
	done := make(chan error)
	go func() { done <- one.Hold(func() { close(held); <-release }) }()
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, s := range []*filestore.Store{one, two} {
		if _, err := s.Put(ctx, "acme", "token", []byte("x")); !errors.Is(err, context.Canceled) {
			t.Errorf("a writer that must not wait: %v", err)
		}
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	put(t, two, "acme", "token", "x")
	wants(t, one, "acme", "token", "x")
}

// Case 53 of the attacks on the file store: each way to damage it is told, and
// names the file.
func TestDamage(t *testing.T) {
	edit := func(t *testing.T, path string, change func([]byte) []byte) {
		t.Helper()
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, change(data), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	flip := func(data []byte) []byte {
		data[len(data)/2] ^= 4
		return data
	}
	cut := func(data []byte) []byte { return data[:len(data)-1] }
	record := func(t *testing.T, dir string, n int) string {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "records", "*"))
		if err != nil || len(files) <= n {
			t.Fatalf("records %q, %v", files, err)
		}
		return files[n]
	}
	swap := func(t *testing.T, a, b string) {
		t.Helper()
		if err := errors.Join(os.Rename(a, a+".x"), os.Rename(b, a), os.Rename(a+".x", b)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		file   string // that the error names
		key    bool   // it cannot be told from a wrong key
	}{
		{"BitFlipInRecord", func(t *testing.T, dir string) { edit(t, record(t, dir, 0), flip); edit(t, record(t, dir, 1), flip) }, "records", false},
		{"BitFlipInIndex", func(t *testing.T, dir string) { edit(t, filepath.Join(dir, "index"), flip) }, "index", false},
		{"BitFlipInKey", func(t *testing.T, dir string) { edit(t, filepath.Join(dir, "key.age"), flip) }, "key.age", true},
		{"TruncatedRecord", func(t *testing.T, dir string) { edit(t, record(t, dir, 0), cut); edit(t, record(t, dir, 1), cut) }, "records", false},
		{"EmptyRecord", func(t *testing.T, dir string) {
			for n := range 2 {
				edit(t, record(t, dir, n), func([]byte) []byte { return nil })
			}
		}, "records", false},
		{"TruncatedIndex", func(t *testing.T, dir string) { edit(t, filepath.Join(dir, "index"), cut) }, "index", false},
		{"EmptyIndex", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "index"), func([]byte) []byte { return nil })
		}, "index", false},
		{"TruncatedKey", func(t *testing.T, dir string) { edit(t, filepath.Join(dir, "key.age"), cut) }, "key.age", false},
		{"HugeIndexLine", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "index"), func(d []byte) []byte { return append(make([]byte, 1<<20), d...) })
		}, "index", false},
		{"RecordsRemoved", func(t *testing.T, dir string) { os.Remove(record(t, dir, 1)); os.Remove(record(t, dir, 0)) }, "records", false},
		{"IndexRemoved", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "index")) }, "index", false},
		{"KeyRemoved", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "key.age")) }, "key.age", false},
		{"AllRemoved", func(t *testing.T, dir string) { os.RemoveAll(dir) }, ".mark", false},
		{"MarkRemoved", func(t *testing.T, dir string) { os.Remove(dir + ".mark") }, ".mark", false},
		{"MarkChanged", func(t *testing.T, dir string) { edit(t, dir+".mark", flip) }, ".mark", false},
		{"SwapBetweenTenants", func(t *testing.T, dir string) { swap(t, record(t, dir, 0), record(t, dir, 1)) }, "records", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := place(t)
			s := open(t, c)
			put(t, s, "acme", "token", "acme's")
			put(t, s, "other", "token", "other's")
			s.Close()
			test.damage(t, c.Dir)
			s, err := filestore.Open(c)
			if err == nil {
				defer s.Close()
				for _, tenant := range []string{"acme", "other"} {
					var got string
					if got, err = get(s, tenant, "token", ""); err == nil || got != "" {
						t.Errorf("got %q, %v", got, err)
					}
				}
			}
			if !errors.Is(err, broker.ErrCorrupt) && (!test.key || !errors.Is(err, filestore.ErrKey)) {
				t.Errorf("%v", err)
			}
			if err == nil || !strings.Contains(err.Error(), test.file) {
				t.Errorf("%v does not name %s", err, test.file)
			}
		})
	}
}

// A record is only what it was written as: not another name's, and not an older value.
func TestSwapWithinTenant(t *testing.T) {
	for _, names := range [][2]string{{"token", "key"}, {"token", "token"}} {
		c := place(t)
		s := open(t, c)
		put(t, s, "acme", names[0], "one")
		put(t, s, "acme", names[1], "two")
		files, _ := filepath.Glob(filepath.Join(c.Dir, "records", "*"))
		one, err1 := os.ReadFile(files[0])
		two, err2 := os.ReadFile(files[1])
		if err := errors.Join(err1, err2, os.WriteFile(files[0], two, 0o600), os.WriteFile(files[1], one, 0o600)); err != nil {
			t.Fatal(err)
		}
		if got, err := get(s, "acme", names[1], ""); !errors.Is(err, broker.ErrCorrupt) {
			t.Errorf("swapped %q: %q, %v", names, got, err)
		}
	}
}

// save returns a function that sets a file or a directory back to what it is now.
func save(t *testing.T, paths ...string) (restore func()) {
	t.Helper()
	kept := t.TempDir()
	for i, path := range paths {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			err = os.CopyFS(filepath.Join(kept, fmt.Sprint(i)), os.DirFS(path))
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(kept, fmt.Sprint(i)), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		for i, path := range paths {
			from := filepath.Join(kept, fmt.Sprint(i))
			err := os.RemoveAll(path)
			if info, _ := os.Stat(from); info.IsDir() {
				err = errors.Join(err, os.CopyFS(path, os.DirFS(from)), tighten(path))
			} else {
				data, readErr := os.ReadFile(from)
				err = errors.Join(err, readErr, os.WriteFile(path, data, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func tighten(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return errors.Join(err, os.Chmod(path, 0o600))
	})
}

func TestRollback(t *testing.T) {
	t.Run("WhileOpen", func(t *testing.T) {
		c := place(t)
		s := open(t, c)
		put(t, s, "acme", "token", "old")
		back := save(t, filepath.Join(c.Dir, "index"), filepath.Join(c.Dir, "records"), c.Dir+".mark")
		put(t, s, "acme", "token", "new")
		back()
		if got, err := get(s, "acme", "token", ""); !errors.Is(err, broker.ErrCorrupt) || !strings.Contains(err.Error(), "set back") {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := s.Put(t.Context(), "acme", "token", []byte("newer")); !errors.Is(err, broker.ErrCorrupt) {
			t.Errorf("a write on top of it: %v", err)
		}
	})
	t.Run("BetweenStarts", func(t *testing.T) {
		c := place(t)
		s := open(t, c)
		put(t, s, "acme", "token", "old")
		s.Close()
		back := save(t, c.Dir)
		s = open(t, c)
		put(t, s, "acme", "token", "new")
		s.Close()
		back()
		if _, err := filestore.Open(c); !errors.Is(err, broker.ErrCorrupt) || !strings.Contains(err.Error(), "set back") {
			t.Errorf("%v", err)
		}
		// A person who has restored a backup says so.
		c.Restored = true
		s = open(t, c)
		wants(t, s, "acme", "token", "old")
		s.Close()
		c.Restored = false
		wants(t, open(t, c), "acme", "token", "old")
	})
	t.Run("OtherHistory", func(t *testing.T) {
		c := place(t)
		s := open(t, c)
		s.Close()
		back := save(t, c.Dir, c.Dir+".mark")
		s = open(t, c)
		put(t, s, "acme", "token", "that one saw")
		s.Close()
		mark := save(t, c.Dir+".mark")
		back()
		s = open(t, c)
		put(t, s, "acme", "token", "that another saw")
		s.Close()
		mark()
		if _, err := filestore.Open(c); !errors.Is(err, broker.ErrCorrupt) {
			t.Errorf("%v", err)
		}
	})
	// The limit that the package's documentation names.
	t.Run("WithMarkBetweenStarts", func(t *testing.T) {
		c := place(t)
		s := open(t, c)
		put(t, s, "acme", "token", "old")
		s.Close()
		back := save(t, c.Dir, c.Dir+".mark")
		s = open(t, c)
		put(t, s, "acme", "token", "new")
		s.Close()
		back()
		wants(t, open(t, c), "acme", "token", "old")
	})
}

// The directory of another store, or one made for its identity by someone who has only
// seen how it looks, is not taken.
func TestOtherStore(t *testing.T) {
	c, other := place(t), place(t)
	s, o := open(t, c), open(t, other)
	put(t, s, "acme", "token", "mine")
	put(t, o, "acme", "token", "theirs")
	for _, file := range []string{"key.age", "index"} {
		data, err := os.ReadFile(filepath.Join(other.Dir, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(c.Dir, file), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, err := get(s, "acme", "token", ""); err == nil {
		t.Errorf("got %q", got)
	}
	s.Close()
	if _, err := filestore.Open(c); !errors.Is(err, filestore.ErrKey) {
		t.Errorf("another's key: %v", err)
	}
	// Even with the recipient that the store is wrapped to.
	forged := filestore.Forge(t, c.Dir+".key")
	if err := os.WriteFile(filepath.Join(c.Dir, "key.age"), forged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := filestore.Open(c); !errors.Is(err, broker.ErrCorrupt) || !strings.Contains(err.Error(), "key.age was written by someone else") {
		t.Errorf("a forged key: %v", err)
	}
}

func TestWrongPassphrase(t *testing.T) {
	c := place(t)
	c.Passphrase = phrase("correct horse")
	put(t, open(t, c), "acme", "token", "x")
	for _, p := range []func() ([]byte, error){phrase("battery staple"), phrase(""), nil} {
		c.Passphrase = p
		_, err := filestore.Open(c)
		if !errors.Is(err, filestore.ErrKey) && p != nil || err == nil {
			t.Errorf("%v", err)
		}
		if err != nil && (strings.Contains(err.Error(), "staple") || strings.Contains(err.Error(), "horse")) {
			t.Errorf("%v tells it", err)
		}
	}
	cause := errors.New("the terminal is gone")
	c.Passphrase = func() ([]byte, error) { return nil, cause }
	if _, err := filestore.Open(c); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
	c.Passphrase = phrase("correct horse")
	wants(t, open(t, c), "acme", "token", "x")
}

// Two writers, each a Store of its own as in two processes: nothing is lost, no version
// is given out twice.
func TestTwoWriters(t *testing.T) {
	c := place(t)
	const writers, each = 4, 8
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			s, err := filestore.Open(c)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			for i := range each {
				if _, err := s.Put(t.Context(), "acme", "shared", fmt.Appendf(nil, "%d/%d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	s := open(t, c)
	versions, err := s.Versions(t.Context(), "acme", "shared")
	if err != nil || len(versions) != writers*each {
		t.Fatalf("%d versions, %v", len(versions), err)
	}
	seen := map[string]bool{}
	for _, v := range versions {
		value, err := get(s, "acme", "shared", v.Version)
		if err != nil || seen[value] {
			t.Errorf("version %s: %q, %v", v.Version, value, err)
		}
		seen[value] = true
	}
}
