package main

import (
	"testing"

	"github.com/stepward/stepward/examples/internal/apptest"
)

func TestOutput(t *testing.T) {
	apptest.Output(t, example, `
		charging ada
		printing the label ""
		failed: step hand, attempt 1: the label is blank
		version 3 does not fit: workflow: step 1 was recorded as charge, and the body calls label; restore the order of calls, or define a new version
		version 2 fits up to label
		printing the label "ada's house"
		the fork: on its way to ada's house
	`)
}
