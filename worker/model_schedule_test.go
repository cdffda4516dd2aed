//go:build unix

package worker_test

import (
	"time"

	"pgregory.net/rapid"

	"github.com/stepward/stepward/workflow"
)

// An hourly is a schedule of a scenario: whenever the clock is set an hour ahead,
// it ticks. Without Overlap there is none.
type hourly struct {
	Overlap string
	Part    part
}

func hourlies() *rapid.Generator[hourly] {
	return rapid.Custom(func(t *rapid.T) hourly {
		return hourly{
			Overlap: rapid.SampledFrom([]string{"", "skip", "buffer", "cancel", "allow"}).Draw(t, "overlap"),
			Part:    parts(2, true).Draw(t, "part"),
		}
	})
}

// put puts the schedule, and returns its first tick.
func (p *play) put() (s workflow.Schedule, first time.Time) {
	s, err := random.Schedule(p.t.Context(), p.client, program{App: p.schema, Part: p.Hourly.Part}, workflow.ScheduleOptions{
		Name: "hourly", Every: time.Hour, Overlap: p.Hourly.Overlap, CatchUp: 1000 * time.Hour})
	if err != nil {
		p.Fatal(err)
	}
	return s, p.ticks(s).Next
}

func (p *play) ticks(s workflow.Schedule) workflow.ScheduleStatus {
	st, err := s.Status(p.t.Context())
	if err != nil {
		p.Fatal(err)
	}
	if st.Problem != "" || st.Missed != 0 {
		p.Fatalf("the schedule has missed %d ticks: %s", st.Missed, st.Problem)
	}
	return st
}

// kept ends the schedule once it has seen to all ticks that are due. Each has one
// run, or was left out and counted.
func (p *play) kept(s workflow.Schedule, first time.Time) {
	var runs, ticks int
	var st workflow.ScheduleStatus
	counted := func() bool {
		const q = `SELECT count(*), count(DISTINCT tick), now() FROM stepward.run
			WHERE tick IS NOT NULL AND date_trunc('hour', tick) = tick`
		var now time.Time
		p.attend(p)
		st = p.ticks(s)
		if err := p.clients.QueryRow(p.t.Context(), p.sql(q)).Scan(&runs, &ticks, &now); err != nil {
			p.Fatal(err)
		}
		return st.Next.After(now) && st.Waiting.IsZero() && st.Next.Equal(p.ticks(s).Next)
	}
	p.until(p, "the schedule is up to date", counted)
	if err := s.Delete(p.t.Context()); err != nil {
		p.Fatal(err)
	}
	due := int(st.Next.Sub(first) / time.Hour)
	if runs != ticks || runs+int(st.Skipped) != due {
		p.Fatalf("%d runs of %d ticks, and %d were left out, of %d that were due since %v", runs, ticks, st.Skipped, due, first)
	}
	if p.Hourly.Overlap == "allow" && runs != due {
		p.Fatalf("%d runs for %d ticks", runs, due)
	}
}

// trigger adds a run of the schedule now.
func (p *play) trigger(s workflow.Schedule) {
	if _, err := s.Trigger(p.t.Context()); err != nil {
		p.Fatal(err)
	}
}
