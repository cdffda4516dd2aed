package main

import (
	"testing"

	"github.com/stepward/stepward/examples/internal/apptest"
)

func TestOutput(t *testing.T) {
	apptest.Output(t, example, `
		nondeterminism: workflow: step 2 was recorded as boil, and the body calls steep; restore the order of calls, or define a new version
		version 1: tea, grind, boil, pour
		version 1: cocoa, grind, steep, pour
		version 2: mate, grind, steep, steep
		version 1: coffee, grind, boil, pour
	`)
}
