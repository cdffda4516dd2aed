package filestore_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/internal/testenv"
)

// Case 53: on a full disk a write fails, and what was there is there.
func TestFullDisk(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=512k"); err != nil {
		testenv.Skip(t, testenv.PartRoot, "this root cannot mount: "+err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	c := filestore.Config{Dir: filepath.Join(disk, "secrets")}
	s, err := filestore.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, "acme", "token", "x")
	var full error
	n := 0
	for ; full == nil; n++ {
		_, full = s.Put(t.Context(), "acme", "big", bytes.Repeat([]byte{byte(n)}, broker.MaxValue))
	}
	if !errors.Is(full, syscall.ENOSPC) {
		t.Fatal(full)
	}
	// No room for the smallest record either.
	rest, err := os.Create(filepath.Join(disk, "rest"))
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 16; size > 0; size /= 2 {
		for {
			if _, err := rest.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
	rest.Close()
	if _, err := s.Put(t.Context(), "acme", "token", []byte("y")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if err := s.Rekey(t.Context(), nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	s.Close()
	s = open(t, c)
	wants(t, s, "acme", "token", "x")
	if versions, err := s.Versions(t.Context(), "acme", "big"); err != nil || len(versions) != n-1 {
		t.Errorf("%d versions, %v, want %d", len(versions), err, n-1)
	}
	if err := os.Remove(filepath.Join(disk, "rest")); err != nil {
		t.Fatal(err)
	}
	put(t, s, "acme", "token", "y")
	s.Close()
}
