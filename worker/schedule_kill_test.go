//go:build unix

package worker_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stepward/stepward/workflow"
)

// tick makes a schedule with two ticks that are due.
func (k killing) tick(r *traveller) {
	r.t.Helper()
	if !k.ticks && !k.unknown {
		return
	}
	_, err := kin.Schedule(r.t.Context(), r.client, r.in.Log, workflow.ScheduleOptions{Name: "hourly", Every: time.Hour, Overlap: "allow"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.rewind("hourly", 2*time.Hour)
	if k.unknown {
		r.exec(`UPDATE stepward.schedule SET spec = '{"overlap":"guess"}'`)
	}
}

// ticked checks that each of the ticks has one run, which completed.
func (k killing) ticked(r *traveller) {
	r.t.Helper()
	if k.unknown {
		eventually(r.t, "the schedule says why it does nothing", func() bool {
			s, err := r.client.Schedule("hourly").Status(r.t.Context())
			return err == nil && s.Problem != ""
		})
	}
	if k.ticks {
		eventually(r.t, "the scheduled runs complete", func() bool {
			return r.count("SELECT count(*) FROM stepward.run WHERE tick IS NOT NULL AND state = 'completed'") >= 2
		})
		if n := r.count("SELECT count(*) FROM stepward.run WHERE tick IS NOT NULL"); n != 2 {
			r.t.Errorf("two ticks have %d runs", n)
		}
		if n := r.count("SELECT count(*) FROM stepward.event WHERE kind = 'run.scheduled'"); n != 2 {
			r.t.Errorf("%d events tell of two ticks", n)
		}
	}
}

// Every tick has one run while one worker after the other dies in the middle of
// them, with another one beside it.
func TestScheduleUnderKills(t *testing.T) {
	f := newFixture(t)
	const ticks = 120
	o := workflow.ScheduleOptions{Name: "minutely", Every: time.Minute, Overlap: "allow"}
	s, err := kin.Schedule(t.Context(), f.client, "", o)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := st.Next.Add(-ticks * time.Minute)
	f.rewind(s.Name, ticks*time.Minute)
	for i, crash := range []string{"ScheduleAdvance:after:2", "RunInsert:after:2", "ScheduleDue:before:3", "ScheduleAdvance:before:1"} {
		p := f.startVictim(victimConfig{Name: fmt.Sprint("victim", i)}, crash)
		if i == 2 {
			f.takeOver()
		}
		if i < 2 {
			p.diedOf(syscall.SIGKILL)
		}
	}
	eventually(t, "the schedule is on time", func() bool {
		return f.count("SELECT count(*) FROM stepward.schedule WHERE due_at > clock_timestamp()") == 1
	})
	var runs, different, inOrder int
	if err := f.pool.QueryRow(t.Context(), f.sql(`SELECT count(*), count(DISTINCT tick), count(*) FILTER (WHERE tick = $1::timestamptz + (n - 1) * interval '1 minute')
		FROM (SELECT tick, row_number() OVER (ORDER BY id) AS n FROM stepward.run WHERE tick IS NOT NULL) r`), first).Scan(&runs, &different, &inOrder); err != nil {
		t.Fatal(err)
	}
	if runs < ticks || runs > ticks+2 || different != runs || inOrder != runs {
		t.Errorf("%d runs of %d ticks, %d of them in order; want %d", runs, different, inOrder, ticks)
	}
}
