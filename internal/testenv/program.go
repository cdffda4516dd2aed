package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// program returns the path in an environment variable, or that of a program in
// PATH.
func program(variable, name, install string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("%s: %w", variable, err)
		}
		return found, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("no %s in PATH (%s, or set %s)", name, install, variable)
	}
	return path, nil
}

// Bubblewrap returns the path of bwrap, or skips the test.
func Bubblewrap(t testing.TB) string {
	t.Helper()
	path, err := program("STEPWARD_BWRAP", "bwrap", "apt-get install bubblewrap")
	if err != nil {
		Skip(t, PartBubblewrap, err.Error())
	}
	return path
}
