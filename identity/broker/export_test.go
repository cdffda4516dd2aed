package broker

import (
	"context"
	"errors"
	"testing"
	"time"
)

// LeaseMargin is for TestUntil.
const LeaseMargin = leaseMargin

// SetPoint has f called at each point of an issue.
func SetPoint(f func(string)) { point = f }

// SetRatePer has places of runs come back after d, for as long as the test runs.
func SetRatePer(t *testing.T, d time.Duration) {
	before := ratePer
	ratePer = d
	t.Cleanup(func() { ratePer = before })
}

// Sweep looks once for what nobody has closed.
func Sweep(ctx context.Context, cfg Config) error {
	b, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(b.closeLeft(ctx), b.endLeases(ctx))
}

// LeasesAtOnce is for TestLeasesOfOneThatHangs.
const LeasesAtOnce = leasesAtOnce

// SetSweepEvery has brokers look every so often, for as long as the test runs.
func SetSweepEvery(t *testing.T, d time.Duration) {
	before := sweepEvery
	sweepEvery = d
	t.Cleanup(func() { sweepEvery = before })
}

// SetPlaces has brokers that begin have so many places, for as long as the test runs.
func SetPlaces(t *testing.T, conns, hall, dials, hosts, ofOne int) {
	before := [5]int{maxConns, maxHall, maxDials, maxHosts, maxOfOne}
	maxConns, maxHall, maxDials, maxHosts, maxOfOne = conns, hall, dials, hosts, ofOne
	t.Cleanup(func() {
		maxConns, maxHall, maxDials, maxHosts, maxOfOne = before[0], before[1], before[2], before[3], before[4]
	})
}

// SetCalls has brokers that begin answer so many calls at a time, for as long as the test runs.
func SetCalls(t *testing.T, n int) {
	before := maxCalls
	maxCalls = n
	t.Cleanup(func() { maxCalls = before })
}

// SetHallFor has who has no place go after d, for as long as the test runs.
func SetHallFor(t *testing.T, d time.Duration) {
	before := hallFor
	hallFor = d
	t.Cleanup(func() { hallFor = before })
}

// SetInject has injections be looked at every so often, and end when they are idle for that long, for as long as the test
// runs.
func SetInject(t *testing.T, every, idle time.Duration) {
	before := [2]time.Duration{injectEvery, injectIdle}
	injectEvery, injectIdle = every, idle
	t.Cleanup(func() { injectEvery, injectIdle = before[0], before[1] })
}
