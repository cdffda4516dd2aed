package main

import (
	"testing"

	"github.com/stepward/stepward/examples/internal/apptest"
)

func TestOutput(t *testing.T) {
	apptest.Output(t, example, `
		often: 0s after the first
		often: 1s after the first
		often: 2s after the first
		often: one by hand
		nightly: 3 added
		nightly: 0 added
		nightly: 2025-03-29 02:30 CET
		nightly: 2025-03-30 03:00 CEST
		nightly: 2025-03-31 02:30 CEST
	`)
}
