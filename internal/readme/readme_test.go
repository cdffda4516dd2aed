package readme

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

func TestDocumentsCompile(t *testing.T) {
	documents, err := filepath.Glob(filepath.Join(root, "*.md"))
	more, merr := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	documents = append(documents, more...)
	if err := errors.Join(err, merr); err != nil {
		t.Fatal(err)
	}
	all := sources(t)
	for _, path := range documents {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range blocks(string(text)) {
			if err := check(root, block, all); err != nil {
				t.Errorf("%s: %v", filepath.Base(path), err)
			}
		}
	}
}

func sources(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		all = append(all, normal(string(text)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestFindsStaleCode shows that the check can fail.
func TestFindsStaleCode(t *testing.T) {
	found := blocks("a\n```go\nx := 1\n```\nb\n```sh\nls\n```\n```go\npackage main\n\nfunc main() {}\n```\n")
	if len(found) != 2 {
		t.Fatalf("got %q", found)
	}
	for _, test := range []struct {
		block string
		ok    bool
	}{
		{found[0], false},
		{found[1], true},
		{"package main\n\nfunc main() { stepward.Gone() }\n", false},
		{"func normal(code string) string {\n    var b strings.Builder\n", true},
	} {
		if err := check(root, test.block, []string{normal("func normal(code string) string {\n\tvar b strings.Builder\n}")}); (err == nil) != test.ok {
			t.Errorf("%q: %v", test.block, err)
		}
	}
}
