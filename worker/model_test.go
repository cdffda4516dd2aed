//go:build unix

package worker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stepward/stepward/workflow"
)

// A scenario is random runs, and what happens to them.
type scenario struct {
	Runs     []program
	Options  []workflow.EnqueueOptions // of each run
	Large    []bool                    // each input
	Hourly   hourly
	Bad      bool // step lucky fails until the troubles are over
	Again    bool // a run that was canceled is retried
	Fork     int  // which step of each run a fork begins at
	Troubles []trouble
}

func scenarios(names ...string) *rapid.Generator[scenario] {
	return rapid.Custom(func(t *rapid.T) (s scenario) {
		for i := range rapid.IntRange(1, 3).Draw(t, "runs") {
			s.Runs = append(s.Runs, program{
				Part:  part{Op: "seq", Parts: rapid.SliceOfN(parts(3, false), 1, 5).Draw(t, "parts")},
				Again: max(0, rapid.IntRange(-3, 2).Draw(t, "again")),
			})
			o := workflow.EnqueueOptions{
				Tenant:   rapid.SampledFrom([]string{"", "acme", "beta"}).Draw(t, "tenant"),
				Priority: rapid.IntRange(-1, 1).Draw(t, "priority"),
			}
			o.Timeout = rapid.SampledFrom([]time.Duration{0, 0, 50 * time.Millisecond, 30 * time.Minute, 1000 * time.Hour}).Draw(t, "timeout")
			s.Large = append(s.Large, rapid.IntRange(0, 3).Draw(t, "large") == 0)
			if rapid.Bool().Draw(t, "limited") {
				o.Limit = workflow.Limit{Key: "all", Concurrency: 1, Rate: 1000}
			}
			if rapid.Bool().Draw(t, "keyed") {
				o.Key = fmt.Sprint("key ", i)
			}
			s.Options = append(s.Options, o)
		}
		s.Bad, s.Again = rapid.Bool().Draw(t, "bad luck"), rapid.Bool().Draw(t, "retry")
		s.Hourly = hourlies().Draw(t, "hourly")
		s.Fork = rapid.IntRange(0, 30).Draw(t, "fork")
		s.Troubles = troubles(names...).Draw(t, "troubles")
		return s
	})
}

// TestModel runs random workflows on two workers which crash, freeze, come and go,
// lose leases, tickets, notifications, connections and answers, while the clock
// of Postgres is set, schedules tick, deadlines pass, signals arrive, and an operator
// pauses, cancels, retries and forks. What comes out must be what the model says, what was to happen once has
// happened once, and no row may be left behind.
// Longer: go test ./worker -run 'TestModel$' -rapid.checks=1000 -timeout 1h.
//
// What it has found, with the other random and killing tests, and what holds that now:
//
//	TestModel    a run that had just ended was made claimable again by who recovered it: TestReapWhileEnding
//	TestModel    a rate had no tokens for as long as the clock had been set back: TestClockStepsBackOverLimit
//	TestModel    a connection that broke while River started ended the worker: TestOutageAtStart
//	TestModel    a fork left out a time limit that had passed, by the clock: TestForkAfterTimeLimit
//	TestModel    a value whose blob failed for a moment was recorded empty: TestBlobWrittenAgain
//	TestModel    what was swept before it was used was referred to: TestBlobSweptEarly, TestRenewalSweptEarly
//	TestModel    Ready yielded a part of the futures when its deadline passed: workflow.TestReadyCanceled
//	TestVerbs    a run ended while it added a child, which stayed: TestChildAddedWhileEnding
//	a review     a run went on elsewhere before it heard of a child that it had given up, which stayed: TestChildAddedUnheard
//	FuzzTurn     a canceled Map with a Limit waited for ever: TestCancelMap, and the corpus of FuzzTurn
//	TestNoSandboxIsLeft    a container that was never started stayed: sandbox/docker TestNeverStarted
func TestModel(t *testing.T) {
	checks(t, 20)
	f := newFleet(t)
	rapid.Check(t, func(rt *rapid.T) {
		f.play(rt, scenarios(append(wishes, mishaps...)...).Draw(rt, "scenario"))
	})
}

// TestModelPostgresDies is the same while a process of Postgres is killed, which
// ends all of its sessions and makes it recover from its log, as after a crash.
func TestModelPostgresDies(t *testing.T) {
	checks(t, 5)
	f := newDoomedFleet(t)
	rapid.Check(t, func(rt *rapid.T) {
		f.play(rt, scenarios("postgres", "postgres", "none", "deploy", "cut", "freeze", "crash", "coin", "pause", "cancel").Draw(rt, "scenario"))
	})
}

// A play is a scenario that happens.
type play struct {
	*fleet
	judge
	scenario
	runs     []workflow.Run[int]
	coins    []int                   // that each run is still to be sent
	canceled map[workflow.RunID]bool // and not retried
	retried  map[workflow.RunID]bool // which ends its deadline
}

// play lets a scenario happen and checks all that holds in the end.
func (f *fleet) play(rt judge, s scenario) {
	f.clear()
	f.exec("UPDATE stepward.luck SET bad = $1", s.Bad)
	defer f.stop()
	f.begin("one")
	f.begin("two")
	p := &play{fleet: f, judge: rt, scenario: s, canceled: make(map[workflow.RunID]bool), retried: make(map[workflow.RunID]bool)}
	p.enqueue()
	var hours workflow.Schedule
	var first time.Time
	if s.Hourly.Overlap != "" {
		hours, first = p.put()
	}
	for _, x := range s.Troubles {
		f.moves(rt, p.runs)
		i := x.N % len(p.runs)
		switch {
		case x.What == "coin":
			p.toss(i)
		case x.What == "trigger" && hours.Name != "":
			p.trigger(hours)
		}
		f.happen(x, p.runs[i], rt.Fatal)
		f.consistent(rt)
	}
	f.calm()
	for i := range p.runs {
		f.until(rt, "the run ends", func() bool { return p.ends(i) })
	}
	f.exec("UPDATE stepward.luck SET bad = false")
	p.enqueueAgain()
	if hours.Name != "" {
		p.kept(hours, first)
	}
	f.settled(rt)
	for i, run := range p.runs {
		if !p.canceled[run.ID] {
			p.comesTo(run, i)
		}
	}
	f.correct(rt)
	for i, run := range p.runs {
		if !p.canceled[run.ID] {
			p.fork(run, i)
		}
	}
	f.settled(rt)
	f.correct(rt)
}

func (p *play) enqueue() {
	for i := range p.Runs {
		p.Runs[i].App = p.schema
		if p.Large[i] {
			p.Runs[i].Pad = strings.Repeat("x", bulky)
		}
		run, err := random.Enqueue(p.t.Context(), p.client, p.Runs[i], p.Options[i])
		if err != nil {
			p.Fatal(err)
		}
		p.runs, p.coins = append(p.runs, run), append(p.coins, p.Runs[i].model().coins)
	}
}

// enqueueAgain finds the same runs by their keys.
func (p *play) enqueueAgain() {
	for i, run := range p.runs {
		if p.Options[i].Key == "" {
			continue
		}
		again, err := random.Enqueue(p.t.Context(), p.client, p.Runs[i], p.Options[i])
		if err != nil || again.ID != run.ID {
			p.Fatalf("enqueued again: %v, %v, not %v", again.ID, err, run.ID)
		}
	}
}

// toss sends a run one of its coins, unless it has ended, and reports whether it did.
func (p *play) toss(i int) bool {
	if p.coins[i] == 0 {
		return false
	}
	send := p.send
	if p.coins[i]%2 == 0 {
		send = p.sendTx
	}
	switch err := send(p.runs[i].ID); {
	case err == nil:
		p.coins[i]--
		return true
	case !finished(err):
		p.Fatal(err)
	}
	return false
}

func (p *play) send(id workflow.RunID) error { return coin.Send(p.t.Context(), p.client, id, 1) }

// sendTx sends a coin in a transaction, after one of another value in a transaction
// that comes to nothing.
func (p *play) sendTx(id workflow.RunID) error {
	ctx := p.t.Context()
	for _, v := range []int{1000, 1} {
		tx, err := p.clients.Begin(ctx)
		if err != nil {
			return err
		}
		err = coin.SendTx(ctx, p.client, tx, id, v)
		if err != nil || v > 1 {
			err = errors.Join(err, tx.Rollback(ctx))
		} else {
			err = tx.Commit(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ends does what a run needs to complete, and reports whether it has, or is left
// canceled.
func (p *play) ends(i int) bool {
	run := p.runs[i]
	for p.toss(i) {
	}
	p.attend(p)
	st := p.status(p, run.ID)
	switch st.State {
	case workflow.StateCompleted:
		return true
	case workflow.StateCanceled:
		if !slices.ContainsFunc(p.Troubles, func(x trouble) bool { return x.What == "cancel" || x.What == "terminate" }) {
			p.Fatalf("%v was canceled: %v", run.ID, st.Err)
		}
		if !p.Again {
			p.canceled[run.ID] = true
			return true
		}
	case workflow.StateFailed:
		late := p.Options[i].Timeout > 0 && errors.Is(st.Err, workflow.ErrTimeout) && !p.retried[run.ID]
		if !late && (!p.Bad || !p.Runs[i].model().lucky) {
			p.Fatalf("%v failed: %v", run.ID, st.Err)
		}
		p.exec("UPDATE stepward.luck SET bad = false")
	default:
		return false
	}
	if err := p.client.Retry(p.t.Context(), run.ID); err != nil {
		p.Fatalf("retry: %v", err)
	}
	p.retried[run.ID] = true
	return false
}

func (p *play) comesTo(run workflow.Run[int], i int) {
	want := p.Runs[i].model().value
	if out, err := outcome(p.t, p.client, run); err != nil || out != want {
		p.Fatalf("%v: got %d, %v; want %d\n%s", run.ID, out, err, want, p.everywhere())
	}
}

// fork forks a run somewhere: it comes to the same.
func (p *play) fork(run workflow.Run[int], i int) {
	steps, err := p.client.Steps(p.t.Context(), run.ID, 0)
	if err != nil {
		p.Fatal(err)
	}
	if len(steps) == 0 {
		return
	}
	from := steps[p.Fork%len(steps)].Step
	fork, err := p.client.Fork(p.t.Context(), run.ID, workflow.ForkOptions{From: from, Signals: true})
	if err != nil {
		p.Fatal(err)
	}
	p.until(p, "the fork of "+run.ID.String()+" from "+from+" ends", func() bool {
		p.attend(p)
		return !p.status(p, fork).Finished.IsZero()
	})
	p.comesTo(random.Handle(p.client, fork), i)
}
