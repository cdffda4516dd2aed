package testenv

import (
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Sops returns the path of the program sops, or skips the test. It is the one of
// STEPWARD_SOPS or in PATH, or the one that services/sops/build makes: for
// that STEPWARD_TEST_SOPS must be build, or STEPWARD_TEST_REQUIRE name the part,
// because it takes minutes the first time.
func Sops(t testing.TB) string {
	t.Helper()
	path, err := sops()
	if err != nil {
		Skip(t, PartSops, err.Error())
	}
	return path
}

var sops = sync.OnceValues(func() (string, error) {
	path, err := program("STEPWARD_SOPS", "sops", "STEPWARD_TEST_SOPS=build builds it, for minutes the first time")
	if err == nil || os.Getenv("STEPWARD_SOPS") != "" || runtime.GOOS != "linux" {
		return path, err
	}
	if os.Getenv("STEPWARD_TEST_SOPS") != "build" && !Required(PartSops) {
		return "", err
	}
	out, err := service("sops/build")
	return strings.TrimSpace(out), err
})
