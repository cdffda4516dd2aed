package main

import (
	"testing"

	"github.com/stepward/stepward/examples/internal/apptest"
)

func TestOutput(t *testing.T) {
	apptest.Output(t, example, `
		train to Lyon: paid 89.00, approved by ada
		a second yacht: refused by grace
		lunch: sent back: nobody decided in time
	`)
}
