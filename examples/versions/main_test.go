package main

import (
	"testing"

	"github.com/stepward/stepward/examples/internal/apptest"
)

func TestOutput(t *testing.T) {
	apptest.Output(t, example, `
		a mistake parks tea: workflow: step 2 was recorded as boil, and the body calls steep; restore the order of calls, or define a new version
		mended with Patched, version 1: tea, grind, boil, pour
		mended with Patched, version 1: cocoa, grind, steep, pour
		side by side, version 1: coffee, grind, boil, pour
		side by side, version 2: mate, grind, steep, steep
	`)
}
