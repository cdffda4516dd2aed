package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

func TestTable(t *testing.T) {
	got, err := os.ReadFile(filepath.Join(root, "docs", "identity-cases.md"))
	if err != nil || string(got) != table(Cases) {
		t.Errorf("docs/identity-cases.md is not what `make cases` writes: %v", err)
	}
}

// Each of the 60 cases is there once, and has tests that exist, or a reason.
func TestCases(t *testing.T) {
	seen := make(map[int]bool)
	for _, g := range Cases {
		for _, c := range g.Cases {
			if seen[c.ID] || c.ID < 1 || c.ID > 60 {
				t.Errorf("case %d is there twice, or is none", c.ID)
			}
			seen[c.ID] = true
			if c.Except == "" && len(c.Tests) == 0 {
				t.Errorf("case %d: want tests, or why there are none", c.ID)
			}
			for _, test := range c.Tests {
				if why := missing(test); why != "" {
					t.Errorf("case %d: %s: %s", c.ID, test, why)
				}
			}
		}
	}
	if len(seen) != 60 {
		t.Errorf("%d cases", len(seen))
	}
	for _, test := range []string{"identity TestNone", "none TestResolve", "internal/binding TestBindingStart/no such case", "TestResolve", "sandbox/local TestBackend/secrets/no such case"} {
		if missing(test) == "" {
			t.Errorf("%s is found", test)
		}
	}
}

// suite is where the subtests of backends are.
const suite = "sandbox/sandboxtest"

// missing returns what is not there of a test, or "".
func missing(test string) string {
	pkg, name, ok := strings.Cut(test, " ")
	if !ok {
		return "it has no package"
	}
	top, sub, _ := strings.Cut(name, "/")
	src, dirs := source(pkg, "*_test.go"), []string{pkg}
	if !regexp.MustCompile(`(?m)^func ` + top + `\(t \*testing\.T\) \{`).MatchString(src) {
		return "there is no such function"
	}
	if strings.Contains(src, "sandboxtest."+top+"(") {
		dirs = append(dirs, suite)
	}
	for _, part := range strings.FieldsFunc(sub, func(r rune) bool { return r == '/' }) {
		if !slices.ContainsFunc(dirs, func(dir string) bool { return strings.Contains(source(dir, "*.go"), strconv.Quote(part)) }) {
			return fmt.Sprintf("nothing there is named %q", part)
		}
	}
	return ""
}

// source is what files of a package have.
func source(pkg, pattern string) string {
	files, _ := filepath.Glob(filepath.Join(root, pkg, pattern)) // only a bad pattern fails
	var all strings.Builder
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return ""
		}
		all.Write(raw)
	}
	return all.String()
}
