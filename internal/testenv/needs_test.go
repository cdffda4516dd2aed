//go:build unix

package testenv_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestNeeds runs needs.sh where one part is missing, with stand-ins for what
// would change the machine.
func TestNeeds(t *testing.T) {
	const line = "apt-get install -y --no-install-recommends missing-part"
	script, err := os.ReadFile("needs.sh")
	if err != nil {
		t.Fatal(err)
	}
	// All parts but one are there, whatever this machine has.
	before, rest, ok := strings.Cut(string(script), "\nneed postgresql postgres\n")
	_, after, ok2 := strings.Cut(rest, "\n\n")
	if !ok || !ok2 {
		t.Fatal("needs.sh has changed: so must this test")
	}
	needs := before + "\nneed present true\nneed missing-part false\n\n" + after
	for _, test := range []struct {
		name, uid string
		apt       bool
		fails     bool
		says      string
		installed string
	}{
		{"ordinary user", "1000", true, true, "sudo " + line, ""},
		{"root", "0", true, false, "installing missing-part", "apt-get update\n" + line + "\n"},
		{"no apt", "0", false, false, "missing for some tests", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			stub := func(name, body string) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			stub("id", "echo "+test.uid)
			if test.apt {
				stub("apt-get", `echo apt-get "$@" >>`+dir+"/installed")
			}
			cmd := exec.Command("/bin/sh", "-c", needs)
			cmd.Env = []string{"PATH=" + dir} // with true, false and echo, which the shell has itself
			out, err := cmd.CombinedOutput()
			if (err != nil) != test.fails || !strings.Contains(string(out), test.says) {
				t.Errorf("%v: %s", err, out)
			}
			installed, _ := os.ReadFile(filepath.Join(dir, "installed"))
			if string(installed) != test.installed {
				t.Errorf("ran %q, want %q", installed, test.installed)
			}
		})
	}
}

// A runc that is there is not asked for: the package would take the place of Docker's own, and
// Docker with it.
func TestNeedsNoOtherRunc(t *testing.T) {
	dir := t.TempDir()
	for name, body := range map[string]string{"runc": "", "id": "echo 1000", "apt-get": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/bin/sh", "needs.sh")
	cmd.Env = []string{"PATH=" + dir}
	out, err := cmd.CombinedOutput()
	if names := strings.Fields(string(out)); err == nil || !slices.Contains(names, "podman") || slices.Contains(names, "runc") {
		t.Errorf("%v: %s", err, out)
	}
}
