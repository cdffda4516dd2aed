// Package testenv finds the real parts that tests run against: an environment
// variable first, then what this machine has, then a container or an install.
//
// A test whose part is missing is skipped, with a reason that says what to
// install. STEPWARD_TEST_REQUIRE turns such skips into failures: "all", or a
// list such as "postgres,docker". make test prints the skips that remain.
package testenv

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// A Part is something outside of Go that a test needs.
type Part string

// The parts that [Require] knows.
const (
	PartPostgres   Part = "postgres"
	PartDocker     Part = "docker"
	PartGVisor     Part = "gvisor"
	PartPodman     Part = "podman"
	PartBubblewrap Part = "bubblewrap"
	PartGCC        Part = "gcc"
	PartGit        Part = "git"
	PartGh         Part = "gh"
	PartProtoc     Part = "protoc"
	PartPgBouncer  Part = "pgbouncer"
	PartRoot       Part = "root"
	PartKubernetes Part = "kubernetes"
	PartVault      Part = "vault"
	PartSops       Part = "sops"
)

// Skip ends the test because a part is missing: it skips it, or fails it if
// STEPWARD_TEST_REQUIRE names the part. reason says what is missing and what
// to do about it. It is the only way in which a test here may skip.
func Skip(t testing.TB, part Part, reason string) {
	t.Helper()
	if Required(part) {
		t.Fatalf("%s is required by STEPWARD_TEST_REQUIRE: %s", part, reason)
	}
	t.Skipf("%s: %s", part, reason)
}

// Required reports whether a missing part must fail a test.
func Required(part Part) bool {
	list := strings.Split(os.Getenv("STEPWARD_TEST_REQUIRE"), ",")
	return slices.Contains(list, "all") || slices.Contains(list, string(part))
}

// Require skips the test unless all parts are there; see [Skip].
func Require(t testing.TB, parts ...Part) {
	t.Helper()
	for _, part := range parts {
		if err := find(t, part); err != nil {
			Skip(t, part, err.Error())
		}
	}
}

func find(t testing.TB, part Part) error {
	t.Helper()
	switch part {
	case PartPostgres:
		_, err := postgres()
		return err
	case PartDocker:
		_, err := docker()
		return err
	case PartGVisor:
		_, err := gvisor()
		return err
	case PartPodman:
		_, err := podman()
		return err
	case PartBubblewrap:
		_, err := program("STEPWARD_BWRAP", "bwrap", "apt-get install bubblewrap")
		return err
	case PartGCC:
		_, err := program("CC", "gcc", "apt-get install gcc libc6-dev")
		return err
	case PartGit:
		_, err := program("STEPWARD_GIT", "git", "apt-get install git")
		return err
	case PartGh:
		_, err := program("STEPWARD_GH", "gh", "apt-get install gh")
		return err
	case PartProtoc:
		_, err := program("PROTOC", "protoc", "apt-get install protobuf-compiler")
		return err
	case PartPgBouncer:
		_, err := pgbouncer()
		return err
	case PartKubernetes:
		_, err := kubernetes()
		return err
	case PartVault:
		_, err := vault()
		return err
	case PartSops:
		_, err := sops()
		return err
	case PartRoot:
		if os.Getuid() != 0 {
			return fmt.Errorf("runs under user %d; run the tests as root to include this one", os.Getuid())
		}
		return nil
	}
	return fmt.Errorf("unknown part %q", part)
}
