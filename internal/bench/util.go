package main

import (
	"fmt"
	"math"
	"time"
)

// How a worker configures River.
const (
	fetchCooldown = 5 * time.Millisecond
	fetchPoll     = time.Second
)

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func round(v float64, digits int) float64 {
	f := math.Pow10(digits)
	return math.Round(v*f) / f
}
