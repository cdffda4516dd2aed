package enqueue

import (
	"slices"
	"testing"
)

// Executable has steps of a mode taken for what workers execute.
func Executable(t testing.TB, mode string) {
	before := executable
	executable = slices.Concat(before, []string{mode})
	t.Cleanup(func() { executable = before })
}
