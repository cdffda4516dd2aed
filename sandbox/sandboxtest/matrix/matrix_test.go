package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stepward/stepward/sandbox/sandboxtest"
)

const root = "../../.."

// The table in docs is the one of the cases and of the columns there.
func TestTable(t *testing.T) {
	all, err := columns(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, tableFile))
	if err != nil || string(got) != table(all) {
		t.Errorf("%s is not what `make matrix BACKENDS=` writes: %v", tableFile, err)
	}
}

// A column says of each case what it can say, and so is of these cases.
func TestColumns(t *testing.T) {
	found, err := columns(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, col := range found {
		for _, c := range all() {
			got, want := col[c.ID], known(c, name)
			if want == "" && got != held && !strings.HasPrefix(got, refused+": ") || want != "" && got != want {
				t.Errorf("%s, case %d is %q: run `make matrix BACKENDS=%s`", name, c.ID, got, name)
			}
		}
		if len(col) != len(all()) {
			t.Errorf("%s has %d cases of %d", name, len(col), len(all()))
		}
	}
}

// Every case is there once, says why it has no test, and names tests that exist.
func TestCases(t *testing.T) {
	seen := map[int]bool{}
	sources := map[string]string{}
	for _, c := range all() {
		if seen[c.ID] {
			t.Errorf("case %d is there twice", c.ID)
		}
		seen[c.ID] = true
		if len(c.Tests) == 0 && c.Except == "" && c.NotApplicable[""] == "" {
			t.Errorf("case %d has neither tests nor a reason", c.ID)
		}
		for _, name := range backends {
			for _, at := range testsOf(c, name) {
				if sources[at.pkg] == "" {
					sources[at.pkg] = source(t, at.pkg)
				}
				top, _, _ := strings.Cut(at.name, "/")
				if !regexp.MustCompile(`(?m)^func ` + top + `\(`).MatchString(sources[at.pkg]) {
					t.Errorf("case %d: there is no test %s in %s", c.ID, top, at.pkg)
				}
			}
		}
	}
	for id := range 81 {
		if !seen[id+1] {
			t.Errorf("case %d is not there", id+1)
		}
	}
}

func source(t *testing.T, pkg string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %v", pkg, files, err)
	}
	var all strings.Builder
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(raw)
	}
	return all.String()
}

// What a run says becomes a column: all tests of a case have to pass.
func TestJudge(t *testing.T) {
	c := sandboxtest.Case{ID: 1, Tests: []string{"TestX/a b", "docker TestY", "internal/z TestZ"}}
	x, y, z := test{"sandbox/docker", "TestX/a_b"}, test{"sandbox/docker", "TestY"}, test{"internal/z", "TestZ"}
	pass := outcome{action: "pass"}
	for _, k := range []struct {
		became map[test]outcome
		want   string
	}{
		{map[test]outcome{x: pass, y: pass, z: pass}, held},
		{map[test]outcome{x: pass, y: {"pass", "no disk"}, z: pass}, "refused: no disk"},
		{map[test]outcome{x: pass, y: pass}, ""},
		{map[test]outcome{x: pass, y: {action: "skip"}, z: pass}, ""},
		{map[test]outcome{x: {"fail", "no disk"}, y: pass, z: pass}, ""},
	} {
		if got, err := judge(c, "docker", k.became); got != k.want || (err == nil) != (k.want != "") {
			t.Errorf("%v: %q, %v", k.became, got, err)
		}
	}
	if got, err := judge(c, "local", map[test]outcome{{"sandbox/local", "TestX/a_b"}: pass, z: pass}); got != held {
		t.Errorf("docker's own test is asked of local: %q, %v", got, err)
	}
	if got := testsOf(sandboxtest.Case{Tests: []string{"TestX", "docker TestY", "gvisor TestZ"}}, "gvisor"); !slices.Equal(got, []test{{"sandbox/docker", "TestGVisorX"}, {"sandbox/docker", "TestZ"}}) {
		t.Errorf("gVisor's tests are %v", got)
	}
	if got := testsOf(sandboxtest.Case{Tests: []string{"TestX"}, Instead: map[string][]string{"lambda": {"lambda TestY"}}}, "lambda"); !slices.Equal(got, []test{{"sandbox/lambda", "TestY"}}) {
		t.Errorf("tests instead are %v", got)
	}
	if got := known(sandboxtest.Case{Tests: []string{"TestX"}, NotCovered: map[string]string{"lambda": "why"}}, "lambda"); got != notCovered+": why" {
		t.Errorf("not covered: %q", got)
	}
	if got := known(sandboxtest.Case{Tests: []string{"docker TestY"}}, "local"); got != notCovered {
		t.Errorf("a test of another backend only: %q", got)
	}
	if got := known(sandboxtest.Case{Tests: []string{"TestX"}, NotApplicable: map[string]string{"local": "why"}}, "local"); got != "not applicable: why" {
		t.Errorf("not applicable: %q", got)
	}
}
