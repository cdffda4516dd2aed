package filestore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stepward/stepward/identity/broker"
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

// What looks damaged while another writes may be half of a change, so that a reader asks again
// when that has ended, and before says neither.
func TestReaderWaitsForVerdict(t *testing.T) {
	c := place(t)
	reader, writer := open(t, c), open(t, c)
	put(t, writer, "acme", "token", "x")
	files, err := filepath.Glob(filepath.Join(c.Dir, "records", "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	away := files[0] + ".away"
	err = writer.Hold(func() {
		if err := os.Rename(files[0], away); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := reader.Get(ctx, broker.Request{Tenant: "acme", Path: "token"}); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, broker.ErrCorrupt) {
			t.Errorf("while another writes: %v", err)
		}
		if err := os.Rename(away, files[0]); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	wants(t, reader, "acme", "token", "x")
}

// Rekey that is cut off after it has written the identity has left the old one in the file too.
func TestRekeyCutOff(t *testing.T) {
	c := place(t)
	s := open(t, c)
	put(t, s, "acme", "token", "x")
	key := filepath.Join(c.Dir, "key.age")
	if err := errors.Join(os.Rename(key, key+".away"), os.Mkdir(key, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := s.Rekey(t.Context(), nil); err == nil {
		t.Fatal("there was no place for the key")
	}
	if err := errors.Join(os.Remove(key), os.Rename(key+".away", key)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, c)
	wants(t, s, "acme", "token", "x")
	if err := s.Rekey(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s.Close()
	wants(t, open(t, c), "acme", "token", "x")
}
