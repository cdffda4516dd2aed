package filestore_test

import (
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/stepward/stepward/identity/filestore"
)

// Case 54: the key changes while others read and write, and they do not notice.
func TestRekeyWhileInUse(t *testing.T) {
	c := place(t)
	reader, writer, admin := open(t, c), open(t, c), open(t, c)
	put(t, admin, "acme", "fixed", "stays")
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if got, err := get(reader, "acme", "fixed", ""); err != nil || got != "stays" {
				t.Errorf("while the key changed: %q, %v", got, err)
				return
			}
		}
	})
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := writer.Put(t.Context(), "acme", "moving", []byte("x")); err != nil {
				t.Errorf("while the key changed: %v", err)
				return
			}
		}
	})
	identity, err := os.ReadFile(c.Dir + ".key")
	if err != nil {
		t.Fatal(err)
	}
	for range 6 {
		if err := admin.Rekey(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	group.Wait()
	wants(t, open(t, c), "acme", "fixed", "stays")
	// The old identity opens nothing any more.
	if err := os.WriteFile(c.Dir+".key", identity, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := filestore.Open(c); !errors.Is(err, filestore.ErrKey) {
		t.Errorf("by the old identity: %v", err)
	}
}

// A directory of before opens with no identity of after, and so cannot be brought back.
func TestRekeyAgainstOldDirectory(t *testing.T) {
	c := place(t)
	s := open(t, c)
	put(t, s, "acme", "token", "leaked")
	back := save(t, c.Dir, c.Dir+".mark")
	put(t, s, "acme", "token", "fresh")
	if err := s.Rekey(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	wants(t, s, "acme", "token", "fresh")
	s.Close()
	back()
	if _, err := filestore.Open(c); !errors.Is(err, filestore.ErrKey) {
		t.Errorf("%v", err)
	}
}

func TestRekeyPassphrase(t *testing.T) {
	c := place(t)
	words := "old"
	c.Passphrase = func() ([]byte, error) { return []byte(words), nil }
	other, admin := open(t, c), open(t, c)
	put(t, admin, "acme", "token", "x")
	wants(t, other, "acme", "token", "x")
	if err := admin.Rekey(t.Context(), phrase("new")); err != nil {
		t.Fatal(err)
	}
	wants(t, admin, "acme", "token", "x")
	if _, err := get(other, "acme", "token", ""); !errors.Is(err, filestore.ErrKey) {
		t.Errorf("another that does not know the new passphrase: %v", err)
	}
	words = "new"
	wants(t, other, "acme", "token", "x")
	if err := admin.Rekey(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	c.Passphrase = phrase("new")
	wants(t, open(t, c), "acme", "token", "x")
	if _, err := os.Stat(c.Dir + ".key"); err == nil {
		t.Error("a store with a passphrase has an identity too")
	}
}
