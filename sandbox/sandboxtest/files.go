package sandboxtest

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/stepward/stepward/sandbox"
)

func testFiles(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	big := bytes.Repeat([]byte("stepward"), 1<<17)
	for name, data := range map[string][]byte{"tree/a/empty": nil, "tree/a/b/small": []byte("hello"), "/workspace/tree/big": big} {
		if err := s.WriteFile(ctx, name, data, 0o640); err != nil {
			t.Fatal(err)
		}
		if got, err := s.ReadFile(ctx, name); err != nil || !bytes.Equal(got, data) {
			t.Errorf("ReadFile(%s): %d bytes, %v", name, len(got), err)
		}
	}
	tree, err := fs.Sub(s.FS(), "workspace/tree")
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(tree, "a/empty", "a/b/small", "big"); err != nil {
		t.Error(err)
	}
	if info, err := fs.Stat(tree, "a/b/small"); err != nil || info.Mode() != 0o640 || info.Size() != 5 {
		t.Errorf("Stat: %v, %v", info, err)
	}
	if _, err := s.ReadFile(ctx, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of a missing file: %v", err)
	}
	for _, name := range []string{"/etc/stepward", "/stepward", "/usr/stepward", "/proc/self/comm"} {
		if err := s.WriteFile(ctx, name, []byte("x"), 0o644); err == nil {
			t.Errorf("WriteFile(%s) succeeded", name)
		}
	}
	if _, err := s.ReadFile(ctx, "tree"); err == nil {
		t.Error("ReadFile of a directory succeeded")
	}
	if err := s.WriteFile(ctx, "\xff", nil, 0o644); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("WriteFile of a name that is not UTF-8: %v", err)
	}
	if _, err := s.ReadFile(ctx, "\xff"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("ReadFile of a name that is not UTF-8: %v", err)
	}
}
