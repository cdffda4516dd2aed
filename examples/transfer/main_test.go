package main

import (
	"testing"

	"github.com/stepward/stepward/examples/internal/apptest"
)

func TestOutput(t *testing.T) {
	apptest.Output(t, example, `
		60 transfers, 60 entries of 60 runs, 20000 cents in all accounts
		too much: step move, attempt 1: insufficient funds
	`)
}
