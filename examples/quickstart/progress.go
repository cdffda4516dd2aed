package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/stepward/stepward/workflow"
)

// progress shows a line per attempt: below, while it goes on, and for good when
// it has ended.
type progress struct {
	screen *screen
	shown  map[attempt]bool
}

// An attempt is one try of one step.
type attempt struct{ seq, number int }

func key(st workflow.StepStatus) attempt { return attempt{st.Seq, st.Attempt} }

func newProgress(s *screen) *progress { return &progress{screen: s, shown: make(map[attempt]bool)} }

func (p *progress) look(_ context.Context, l look) error {
	var live []string
	for _, st := range byStart(l.steps) {
		line := fmt.Sprintf("%-11s %-10s %-17s", st.Step, st.Mode, where(st))
		switch {
		case p.shown[key(st)]:
		case ended(l, st):
			p.shown[key(st)] = true
			sign := "✓"
			if st.Err != nil || !st.Recorded {
				sign = "✗"
			}
			p.screen.printf("%s %s %s", sign, line, outcome(l, st))
		default:
			live = append(live, fmt.Sprintf("· %s %.1fs", line, time.Since(st.Started).Seconds()))
		}
	}
	if note := p.waiting(l); note != "" {
		live = append(live, note)
	}
	p.screen.setLive(live)
	return nil
}

// waiting says what a run without a worker waits for.
func (p *progress) waiting(l look) string {
	switch l.run.State {
	case workflow.StateReady:
		return "· waits for a worker"
	case workflow.StateWaiting:
		return fmt.Sprintf("· next attempt in %.0fs", time.Until(l.run.Since).Seconds())
	}
	return ""
}

// ended reports whether nothing more is to come of an attempt.
func ended(l look, st workflow.StepStatus) bool {
	return st.Recorded || st.Err != nil || lost(l, st)
}

// lost reports whether an attempt was lost with its worker: it says so, or it has no
// end, and a later one, or the run's own
// end, shows that it will never have one.
func lost(l look, st workflow.StepStatus) bool {
	if st.Err != nil && st.Err.Kind == "sandbox" { // here, only ever with its worker
		return true
	}
	if st.Recorded || st.Err != nil {
		return false
	}
	return !l.run.Finished.IsZero() || slices.ContainsFunc(l.steps, func(o workflow.StepStatus) bool {
		return o.Seq == st.Seq && o.Attempt > st.Attempt
	})
}

// byStart sorts by when the attempts began.
func byStart(steps []workflow.StepStatus) []workflow.StepStatus {
	return slices.SortedStableFunc(slices.Values(steps), func(a, b workflow.StepStatus) int { return a.Started.Compare(b.Started) })
}
