package main

import (
	"testing"

	"github.com/stepward/stepward/examples/internal/apptest"
)

func TestOutput(t *testing.T) {
	apptest.Output(t, example, `
		often: a run 0s after the first
		often: a run 1s after the first
		often: a run 2s after the first
		often: paused, and one run by hand
		nightly: 3 nights are made up for
		nightly: 0 nights are made up for
		nightly: a run for 2025-03-29 02:30 CET
		nightly: a run for 2025-03-30 03:00 CEST
		nightly: a run for 2025-03-31 02:30 CEST
	`)
}
