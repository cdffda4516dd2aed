package main

import (
	"testing"

	"github.com/stepward/stepward/examples/internal/apptest"
)

func TestOutput(t *testing.T) {
	apptest.Output(t, example, `
		60 transfers wrote 60 entries, of 60 runs; the accounts have 30000 cents, as before
		too much is refused: step move, attempt 1: insufficient funds
	`)
}
