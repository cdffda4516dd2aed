package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stepward/stepward/examples/quickstart/sitework"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// killer kills the worker that holds the run, once some pages are rendered and
// others are not, and then holds Stepward to its promise: what was recorded
// before is there afterwards, unchanged, and did not run again.
type killer struct {
	screen  *screen
	workers *processes

	victim   string // name of the worker, once it is dead
	killed   time.Time
	finished map[int]workflow.StepStatus // what was recorded then, by Seq
	told     bool                        // that another worker took over
}

func (k *killer) look(_ context.Context, l look) error {
	over := !l.run.Finished.IsZero()
	switch {
	case k.victim == "" && over:
		return errors.New("the run ended before its worker could be killed")
	case k.victim == "" && l.run.State == workflow.StateRunning && inTheMiddle(l):
		return k.kill(l.run.Worker)
	case k.victim == "":
		return nil
	case k.finished == nil:
		k.remember(l)
	}
	if !k.told && (over || l.run.State == workflow.StateRunning && l.run.Worker != k.victim) {
		k.told = true
		k.screen.printf("  another worker took the run over %.1fs after the kill", time.Since(k.killed).Seconds())
	}
	return nil
}

func (k *killer) kill(name string) error {
	if err := k.workers.kill(name); err != nil {
		return err
	}
	k.victim, k.killed = name, time.Now()
	k.screen.printf("\n  %s was killed with SIGKILL. Another worker may take its run when its\n"+
		"  lease has run out: %v after its last heartbeat.", name, worker.LeaseTTLDefault)
	return nil
}

// remember notes what is recorded now that the victim is dead.
func (k *killer) remember(l look) {
	k.finished = make(map[int]workflow.StepStatus)
	var names []string
	for _, st := range l.steps {
		if st.Recorded {
			k.finished[st.Seq] = st
			names = append(names, st.Step)
		}
	}
	k.screen.printf("  Finished before: %s.\n", strings.Join(names, ", "))
}

// verify compares the end, when it is there, with what was remembered.
func (k *killer) verify(_ context.Context, l look) error {
	if l.run.Finished.IsZero() {
		return nil
	}
	recorded := make(map[int]int)
	for _, st := range l.steps {
		if st.Recorded {
			recorded[st.Seq]++
		}
		before, ok := k.finished[st.Seq]
		if ok && (st.Attempt > before.Attempt || st.Recorded && (st.Worker != before.Worker || !st.Started.Equal(before.Started))) {
			return fmt.Errorf("step %s was finished before the kill, and ran again", st.Step)
		}
	}
	for seq, n := range recorded {
		if n != 1 {
			return fmt.Errorf("step %d is recorded %d times", seq, n)
		}
	}
	k.screen.printf("\n  None of the %d steps that were finished before the kill ran again.", len(k.finished))
	return nil
}

// inTheMiddle reports whether some pages are rendered and others are not. A
// site of one page has its middle while that one is rendered.
func inTheMiddle(l look) bool {
	var plan sitework.Plan
	done, begun := 0, 0
	for _, st := range l.steps {
		switch {
		case st.Step == "plan" && st.Recorded:
			if json.Unmarshal(st.Output, &plan) != nil {
				return false
			}
		case strings.HasPrefix(st.Step, "render["):
			begun++
			if st.Recorded {
				done++
			}
		}
	}
	return done > 0 && done < len(plan.Pages) || len(plan.Pages) == 1 && begun > 0
}
