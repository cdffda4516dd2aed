package main

import (
	"testing"

	"github.com/stepward/stepward/examples/internal/apptest"
)

func TestOutput(t *testing.T) {
	apptest.Output(t, example, `
		sum 332833500, 1000 steps recorded, the last is square[999]
	`)
}
