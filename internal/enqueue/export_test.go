package enqueue

import "testing"

// Executable has steps of a mode taken for what workers execute.
func Executable(t *testing.T, mode string) {
	before := executable
	executable = append(before[:len(before):len(before)], mode)
	t.Cleanup(func() { executable = before })
}
