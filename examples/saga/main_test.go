package main

import (
	"testing"

	"github.com/stepward/stepward/examples/internal/apptest"
)

func TestOutput(t *testing.T) {
	apptest.Output(t, example, `
		Oslo is booked: [flight to Oslo hotel to Oslo car to Oslo]
		  flight: "flight to Oslo"
		  hotel: "hotel to Oslo"
		  car: "car to Oslo"
		Porto is off: step car, attempt 1: no car left
		  flight: "flight to Porto"
		  hotel: "hotel to Porto"
		  car failed: no car left
		  undo: "canceled car to Porto"
		  undo#2: "canceled hotel to Porto"
		  undo#3: "canceled flight to Porto"
	`)
}
