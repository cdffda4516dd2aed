package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// A test is one that holds a case.
type test struct {
	pkg  string // directory
	name string // as go test prints it, with its subtests
}

// testsOf returns the tests of a case on a backend.
func testsOf(c sandboxtest.Case, backend string) (out []test) {
	home := "sandbox/" + backend
	if variants[backend] != "" {
		home = "sandbox/docker"
	}
	if c.NotApplicable[backend] != "" || c.NotCovered[backend] != "" {
		return nil
	}
	tests := c.Tests
	if instead, ok := c.Instead[backend]; ok {
		tests = instead
	}
	for _, s := range tests {
		pkg, name, ok := strings.Cut(s, " ")
		switch {
		case strings.HasPrefix(s, "Test"):
			pkg, name = home, s
			if v := variants[backend]; v != "" {
				name = v + strings.TrimPrefix(s, "Test")
			}
		case ok && slices.Contains(backends, pkg) && pkg != backend:
			continue
		case ok && pkg == backend:
			pkg = home
		}
		out = append(out, test{pkg, strings.ReplaceAll(name, " ", "_")})
	}
	return out
}

// An outcome is what go test says of a test: "pass", and the reason that the test
// gave for a case being refused.
type outcome struct{ action, refused string }

// run runs the tests of all cases on a backend.
func run(root, backend string) (column, error) {
	names := map[string][]string{} // by package
	for _, c := range all() {
		for _, t := range testsOf(c, backend) {
			top, _, _ := strings.Cut(t.name, "/")
			if !slices.Contains(names[t.pkg], top) {
				names[t.pkg] = append(names[t.pkg], top)
			}
		}
	}
	became := map[test]outcome{}
	for pkg, list := range names {
		if err := goTest(root, pkg, list, became); err != nil {
			return nil, err
		}
	}
	out := column{}
	var failed error
	for _, c := range all() {
		result, err := judge(c, backend, became)
		failed = errors.Join(failed, err)
		out[c.ID] = result
	}
	return out, failed
}

// goTest runs tests of a package, and adds what became of each of them.
func goTest(root, pkg string, names []string, became map[test]outcome) error {
	slices.Sort(names)
	c := exec.Command("go", "test", "-count=1", "-timeout=30m", "-json", "-run", "^("+strings.Join(names, "|")+")$", ".")
	c.Dir, c.Stderr = filepath.Join(root, pkg), os.Stderr // which may be a module of its own
	fmt.Println(pkg, strings.Join(names, " "))
	out, err := c.Output()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) { // a test that failed is in the output
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("go test in %s said %q", pkg, lines.Bytes())
		}
		t := test{pkg, e.Test}
		o := became[t]
		switch e.Action {
		case "output":
			if _, why, ok := strings.Cut(e.Output, ": "+sandboxtest.Refused); ok {
				o.refused = strings.TrimSpace(why)
			}
		case "pass", "fail", "skip":
			o.action = e.Action
		}
		became[t] = o
	}
	return lines.Err()
}

// judge says what became of a case.
func judge(c sandboxtest.Case, backend string, became map[test]outcome) (string, error) {
	if why := known(c, backend); why != "" {
		return why, nil
	}
	result := held
	for _, t := range testsOf(c, backend) {
		o := became[t]
		if o.action != "pass" {
			return "", fmt.Errorf("%s, case %d: %s %s: %s", backend, c.ID, t.pkg, t.name, cmp.Or(o.action, "it was not run"))
		}
		if o.refused != "" {
			result = refused + ": " + o.refused
		}
	}
	return result, nil
}
