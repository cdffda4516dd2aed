package main

import (
	"testing"

	"github.com/stepward/stepward/examples/internal/apptest"
)

func TestOutput(t *testing.T) {
	apptest.Output(t, example, `
		charge ada
		label  
		failed: step hand, attempt 1: the label is blank
		version 3: workflow: step 1 was recorded as charge, and the body calls label; restore the order of calls, or define a new version
		version 2: it does something else with label
		label  ada's house
		on its way to ada's house
	`)
}
