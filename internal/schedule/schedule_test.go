package schedule_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stepward/stepward/internal/schedule"
)

func parse(t testing.TB, s schedule.Spec) *schedule.Timetable {
	t.Helper()
	table, err := schedule.Parse(s.Normal())
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What a change of the clock does to a cron.
func TestChangesOfTheClock(t *testing.T) {
	for _, c := range []struct {
		name, location, cron, after string
		want                        []string // as the clock on the wall shows them
	}{
		{"left out", "Europe/Berlin", "30 2 * * *", "2026-03-28T00:00:00Z",
			[]string{"03-28 02:30 CET", "03-29 03:00 CEST", "03-30 02:30 CEST"}},
		{"twice", "Europe/Berlin", "30 2 * * *", "2026-10-24T00:00:00Z",
			[]string{"10-24 02:30 CEST", "10-25 02:30 CEST", "10-26 02:30 CET"}},
		{"between the two", "Europe/Berlin", "30 2 * * *", "2026-10-25T01:00:00Z",
			[]string{"10-26 02:30 CET"}},
		{"several left out are one tick", "Europe/Berlin", "*/20 1-3 * * *", "2026-03-29T00:30:00Z",
			[]string{"03-29 01:40 CET", "03-29 03:00 CEST", "03-29 03:20 CEST"}},
		{"several that come twice", "Europe/Berlin", "*/30 2,3 * * *", "2026-10-24T23:00:00Z",
			[]string{"10-25 02:00 CEST", "10-25 02:30 CEST", "10-25 03:00 CET"}},
		{"every hour, forward", "Europe/Berlin", "15 * * * *", "2026-03-29T00:00:00Z",
			[]string{"03-29 01:15 CET", "03-29 03:15 CEST", "03-29 04:15 CEST"}},
		{"every hour, back", "Europe/Berlin", "15 * * * *", "2026-10-24T23:30:00Z",
			[]string{"10-25 02:15 CEST", "10-25 02:15 CET", "10-25 03:15 CET"}},
		{"every minute, back", "Europe/Berlin", "* * * * *", "2026-10-25T00:58:00Z",
			[]string{"10-25 02:59 CEST", "10-25 02:00 CET", "10-25 02:01 CET"}},
		{"left out", "America/New_York", "0 2 * * *", "2026-03-07T12:00:00Z",
			[]string{"03-08 03:00 EDT", "03-09 02:00 EDT"}},
		{"twice", "America/New_York", "0 1 * * *", "2026-10-31T12:00:00Z",
			[]string{"11-01 01:00 EDT", "11-02 01:00 EST"}},
		{"every other hour, back", "America/New_York", "0 */2 * * *", "2026-11-01T03:00:00Z",
			[]string{"11-01 00:00 EDT", "11-01 02:00 EST", "11-01 04:00 EST"}},
		// The clock is changed by half an hour at two.
		{"left out", "Australia/Lord_Howe", "15 2 * * *", "2026-10-02T15:00:00Z",
			[]string{"10-03 02:15 +1030", "10-04 02:30 +11", "10-05 02:15 +11"}},
		{"twice", "Australia/Lord_Howe", "45 1 * * *", "2026-04-03T15:00:00Z",
			[]string{"04-05 01:45 +11", "04-06 01:45 +1030"}},
		{"every hour, back", "Australia/Lord_Howe", "45 * * * *", "2026-04-04T13:50:00Z",
			[]string{"04-05 01:45 +11", "04-05 01:45 +1030", "04-05 02:45 +1030"}},
		{"every hour, forward", "Australia/Lord_Howe", "0,15 * * * *", "2026-10-03T15:00:00Z",
			[]string{"10-04 03:00 +11", "10-04 03:15 +11"}},
		{"midnight is left out", "Africa/Cairo", "0 0 24 4 *", "2026-04-01T00:00:00Z",
			[]string{"04-24 01:00 EEST"}},
		{"midnight is left out, every hour", "Africa/Cairo", "0 * 24 4 *", "2026-04-01T00:00:00Z",
			[]string{"04-24 01:00 EEST", "04-24 02:00 EEST"}},
		{"a whole day was left out", "Pacific/Apia", "0 12 * * *", "2011-12-29T00:00:00Z",
			[]string{"12-29 12:00 -10", "12-31 00:00 +14", "12-31 12:00 +14"}},
	} {
		t.Run(c.location+"/"+c.name, func(t *testing.T) {
			table := parse(t, schedule.Spec{Cron: c.cron, Location: c.location})
			loc, err := time.LoadLocation(c.location)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			tick := at(t, c.after)
			for range c.want {
				tick = table.Next(tick)
				got = append(got, tick.In(loc).Format("01-02 15:04 MST"))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s\n got %q\nwant %q", c.cron, got, c.want)
			}
		})
	}
}

func TestNext(t *testing.T) {
	for _, c := range []struct {
		spec        schedule.Spec
		after, want string
	}{
		{schedule.Spec{Every: time.Hour}, "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"},
		{schedule.Spec{Every: time.Hour}, "2026-01-01T00:59:59.9Z", "2026-01-01T01:00:00Z"},
		{schedule.Spec{Every: 7 * time.Second}, "1969-12-31T23:59:58Z", "1970-01-01T00:00:00Z"},
		{schedule.Spec{Every: 7 * time.Second}, "1969-12-31T23:59:52.5Z", "1969-12-31T23:59:53Z"},
		{schedule.Spec{Every: 7 * 24 * time.Hour}, "2026-01-01T00:00:00Z", "2026-01-08T00:00:00Z"}, // a Thursday, as the first day was
		{schedule.Spec{Cron: "@daily"}, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"},
		{schedule.Spec{Cron: "0 9 * * MON-FRI"}, "2026-01-02T09:00:00Z", "2026-01-05T09:00:00Z"},
		{schedule.Spec{Cron: "0 9 13 * FRI"}, "2026-01-02T09:00:00Z", "2026-01-09T09:00:00Z"}, // either day, as ever
		{schedule.Spec{Cron: "0 0 29 2 *"}, "2024-03-01T00:00:00Z", "2028-02-29T00:00:00Z"},
	} {
		table := parse(t, c.spec)
		if got := table.Next(at(t, c.after)); !got.Equal(at(t, c.want)) {
			t.Errorf("%+v after %s: %s, want %s", c.spec, c.after, got, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	day := 24 * time.Hour
	for _, c := range []struct {
		spec        schedule.Spec
		field, text string
	}{
		{schedule.Spec{}, "Cron", "one of them"},
		{schedule.Spec{Cron: "* * * * *", Every: time.Hour}, "Every", "only one"},
		{schedule.Spec{Every: time.Hour, Location: "Europe/Berlin"}, "Location", "for Cron"},
		{schedule.Spec{Every: time.Millisecond}, "Every", "1ms"},
		{schedule.Spec{Every: 1500 * time.Millisecond}, "Every", "1.5s"},
		{schedule.Spec{Every: -time.Hour}, "Every", "-1h"},
		{schedule.Spec{Every: time.Hour, CatchUp: time.Second}, "CatchUp", "1s"},
		{schedule.Spec{Every: time.Hour, Jitter: -1}, "Jitter", "negative"},
		{schedule.Spec{Every: time.Hour, Jitter: day}, "Jitter", "longer"},
		{schedule.Spec{Every: time.Hour, Overlap: "queue"}, "Overlap", `"queue"`},
		{schedule.Spec{Cron: "@daily", Location: "Europe/Bärlin"}, "Location", "Bärlin"},
		{schedule.Spec{Cron: "@daily", Location: "Local"}, "Location", "every machine"},
		{schedule.Spec{Cron: "@daily", Location: "../../etc/passwd"}, "Location", "passwd"},
		{schedule.Spec{Cron: "0 0 30 2 *"}, "Cron", "never comes"},
		{schedule.Spec{Cron: "0 0 31 2,4,6,9,11 *"}, "Cron", "never comes"},
		{schedule.Spec{Cron: "TZ=Europe/Berlin @daily"}, "Cron", "belongs into Location"},
		{schedule.Spec{Cron: "TZ=Europe/Berlin"}, "Cron", "belongs into Location"},
		{schedule.Spec{Cron: "@every 1h"}, "Cron", "belongs into Every"},
		{schedule.Spec{Cron: "@reboot"}, "Cron", "@reboot"},
		{schedule.Spec{Cron: "* * * *"}, "Cron", "want minute"},
		{schedule.Spec{Cron: "0 * * * * *"}, "Cron", "want minute"},
		{schedule.Spec{Cron: "60 * * * *"}, "Cron", "60"},
		{schedule.Spec{Cron: "*/0 * * * *"}, "Cron", "want minute"},
		{schedule.Spec{Cron: "* * * * \x00"}, "Cron", "want minute"},
		{schedule.Spec{Cron: strings.Repeat("1,", 200)}, "Cron", "the limit is 200"},
	} {
		_, err := schedule.Parse(c.spec.Normal())
		var field *schedule.FieldError
		if !errors.As(err, &field) || field.Field != c.field || !strings.Contains(field.Reason, c.text) {
			t.Errorf("%+v: %v, want %s: …%s…", c.spec, err, c.field, c.text)
		}
	}
}

// A jitter is the same for every worker, not the same for every schedule, and
// never leads past its limit.
func TestJitter(t *testing.T) {
	table := parse(t, schedule.Spec{Every: time.Hour, Jitter: 10 * time.Minute})
	seen := make(map[time.Duration]bool)
	tick := at(t, "2026-01-01T00:00:00Z")
	for i := range 200 {
		late := table.Due(fmt.Sprint("s", i%2), tick).Sub(tick)
		if late < 0 || late >= 10*time.Minute || late != table.Due(fmt.Sprint("s", i%2), tick).Sub(tick) {
			t.Fatalf("late by %v", late)
		}
		seen[late] = true
		tick = table.Next(tick)
	}
	if len(seen) < 190 {
		t.Errorf("only %d different delays", len(seen))
	}
}

// What is due at 12:00:30, when a minute's tick is enqueued each minute.
func TestPlan(t *testing.T) {
	const none = "-"
	for _, c := range []struct {
		name, overlap        string
		tick, buffered       string // minutes and seconds before
		busy                 bool
		enqueue, next, waits string
		cancel               bool
		skipped, missed      int64
	}{
		{name: "nothing", overlap: "skip", tick: "12:01", enqueue: none, next: "12:01", waits: none},
		{name: "one", overlap: "skip", tick: "12:00", enqueue: "12:00", next: "12:01", waits: none},
		{name: "busy", overlap: "skip", tick: "12:00", busy: true, enqueue: none, next: "12:01", waits: none, skipped: 1},
		{name: "late", overlap: "skip", tick: "11:58", enqueue: "11:58", next: "12:01", waits: none, skipped: 2},
		{name: "too late", overlap: "skip", tick: "11:54", enqueue: "11:56", next: "12:01", waits: none, skipped: 4, missed: 2},

		{name: "busy", overlap: "buffer", tick: "12:00", busy: true, enqueue: none, next: "12:01", waits: "12:00"},
		{name: "full", overlap: "buffer", tick: "12:00", buffered: "11:59", busy: true, enqueue: none, next: "12:01", waits: "11:59", skipped: 1},
		{name: "free", overlap: "buffer", tick: "12:01", buffered: "11:59", enqueue: "11:59", next: "12:01", waits: none},
		{name: "free and due", overlap: "buffer", tick: "12:00", buffered: "11:59", enqueue: "11:59", next: "12:01", waits: "12:00"},
		{name: "late", overlap: "buffer", tick: "11:58", enqueue: "11:58", next: "12:01", waits: "11:59", skipped: 1},
		{name: "waits longer than the window", overlap: "buffer", tick: "12:01", buffered: "09:00", enqueue: "09:00", next: "12:01", waits: none},

		{name: "busy", overlap: "allow", tick: "12:00", busy: true, enqueue: "12:00", next: "12:01", waits: none},
		{name: "late", overlap: "allow", tick: "11:58", enqueue: "11:58 11:59 12:00", next: "12:01", waits: none},
		{name: "was buffer", overlap: "allow", tick: "12:00", buffered: "11:59", busy: true, enqueue: "11:59 12:00", next: "12:01", waits: none},

		{name: "free", overlap: "cancel", tick: "12:00", enqueue: "12:00", next: "12:01", waits: none},
		{name: "busy", overlap: "cancel", tick: "12:00", busy: true, enqueue: none, next: "12:01", waits: "12:00", cancel: true},
		{name: "waits", overlap: "cancel", tick: "12:01", buffered: "11:59", busy: true, enqueue: none, next: "12:01", waits: "11:59"},
		{name: "replaces", overlap: "cancel", tick: "12:00", buffered: "11:59", busy: true, enqueue: none, next: "12:01", waits: "12:00", cancel: true, skipped: 1},
		{name: "it has ended", overlap: "cancel", tick: "12:01", buffered: "11:59", enqueue: "11:59", next: "12:01", waits: none},
		{name: "it has ended, and another one is due", overlap: "cancel", tick: "12:00", buffered: "11:59", enqueue: "12:00", next: "12:01", waits: none, skipped: 1},
		{name: "late", overlap: "cancel", tick: "11:58", enqueue: "12:00", next: "12:01", waits: none, skipped: 2},
	} {
		t.Run(c.overlap+"/"+c.name, func(t *testing.T) {
			table := parse(t, schedule.Spec{Every: time.Minute, CatchUp: 5 * time.Minute, Overlap: c.overlap})
			clock := func(text string) time.Time {
				if text == "" {
					return time.Time{}
				}
				return at(t, "2026-01-01T"+text+":00Z")
			}
			show := func(ticks ...time.Time) string {
				var texts []string
				for _, tick := range ticks {
					if !tick.IsZero() {
						texts = append(texts, tick.Format("15:04"))
					}
				}
				if texts == nil {
					return none
				}
				return strings.Join(texts, " ")
			}
			p := table.Plan("s", schedule.State{Tick: clock(c.tick), Buffered: clock(c.buffered), Busy: c.busy}, at(t, "2026-01-01T12:00:30Z"))
			if show(p.Enqueue...) != c.enqueue || show(p.State.Tick) != c.next || show(p.State.Buffered) != c.waits ||
				p.Cancel != c.cancel || p.State.Skipped != c.skipped || p.State.Missed != c.missed {
				t.Errorf("got %+v", p)
			}
		})
	}
}

// A Plan does a bounded amount of work, and what is left is due at once.
func TestPlanIsBounded(t *testing.T) {
	now := at(t, "2026-01-01T00:00:00Z")
	runs := parse(t, schedule.Spec{Every: time.Second, CatchUp: time.Hour, Overlap: "allow"})
	p := runs.Plan("s", schedule.State{Tick: now.Add(-time.Hour)}, now)
	if len(p.Enqueue) != 10 || p.State.Due.After(now) {
		t.Errorf("got %+v", p)
	}
	missed := parse(t, schedule.Spec{Every: time.Second, CatchUp: time.Hour})
	p = missed.Plan("s", schedule.State{Tick: now.Add(-365 * 24 * time.Hour)}, now)
	if len(p.Enqueue) != 0 || p.State.Missed != 10000 || p.State.Due.After(now) {
		t.Errorf("got %+v", p)
	}
}

var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia", "America/Sao_Paulo"}

// Whenever it is asked, Next agrees with a walk over the minutes of a few days,
// which are those around a change of the clock half of the time.
func TestNextProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		minutes := rapid.SampledFrom([]string{"*", "0", "30", "15,45", "*/20", "59"}).Draw(t, "minutes")
		hours := rapid.SampledFrom([]string{"*", "0", "1", "2", "0-3", "*/2", "0-23", "23"}).Draw(t, "hours")
		days := rapid.SampledFrom([]string{"*", "*/2"}).Draw(t, "days")
		zone := rapid.SampledFrom(zones).Draw(t, "zone")
		table, err := schedule.Parse(schedule.Spec{Cron: minutes + " " + hours + " " + days + " * *", Location: zone}.Normal())
		if err != nil {
			t.Fatal(err)
		}
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Unix(rapid.Int64Range(1262304000, 1893456000).Draw(t, "start"), 0).In(loc) // 2010 to 2029
		if _, end := start.ZoneBounds(); rapid.Bool().Draw(t, "around a change") && !end.IsZero() {
			start = end.Add(-time.Duration(rapid.IntRange(0, 180).Draw(t, "before")) * time.Minute)
		}
		parsed := func(list string, v, least int) bool { // the few forms above
			for part := range strings.SplitSeq(list, ",") {
				var from, to, step int
				switch n, _ := fmt.Sscanf(part, "%d-%d", &from, &to); {
				case part == "*":
					return true
				case n == 2 && v >= from && v <= to, n == 1 && v == from:
					return true
				}
				if n, _ := fmt.Sscanf(part, "*/%d", &step); n == 1 && (v-least)%step == 0 {
					return true
				}
			}
			return false
		}
		matches := func(face time.Time) bool {
			return parsed(minutes, face.Minute(), 0) && parsed(hours, face.Hour(), 0) && parsed(days, face.Day(), 1)
		}
		face := func(at time.Time) time.Time {
			at = at.In(loc)
			return time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), at.Minute(), at.Second(), 0, time.UTC)
		}
		every := hours == "*" || hours == "0-23"
		var want []time.Time
		first := start.Add(-26 * time.Hour).Truncate(time.Minute)
		highest := face(first) // that the clock has shown
		for i := 1; i < 80*60; i++ {
			at := first.Add(time.Duration(i) * time.Minute)
			shown := face(at)
			ticks := matches(shown) && (every || shown.After(highest))
			if !every {
				for skipped := highest.Add(time.Minute); skipped.Before(shown); skipped = skipped.Add(time.Minute) {
					ticks = ticks || matches(skipped)
				}
			}
			if shown.After(highest) {
				highest = shown
			}
			if ticks && at.After(start) {
				want = append(want, at)
			}
		}
		tick := start
		for _, w := range want {
			if tick = table.Next(tick); !tick.Equal(w) {
				t.Fatalf("after %s: %s, want %s", start, tick.In(loc), w.In(loc))
			}
		}
	})
}

// However often, and however late, a schedule is looked at, every tick is
// enqueued or counted once, in order; and with anything but Allow, no tick is
// enqueued while another one's run goes on.
func TestPlanProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		overlap := rapid.SampledFrom([]string{"skip", "buffer", "allow", "cancel"}).Draw(t, "overlap")
		jitter := time.Duration(rapid.IntRange(0, 60).Draw(t, "jitter")) * time.Second
		table, err := schedule.Parse(schedule.Spec{Every: time.Minute, Jitter: jitter, CatchUp: 20 * time.Minute, Overlap: overlap})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Unix(1767225600, 0).UTC()
		var s schedule.State
		s.Tick, s.Due = table.Start("s", start)
		first := s.Tick
		now := start
		var enqueued []time.Time
		for range rapid.IntRange(1, 60).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "pause")) * time.Second)
			if s.Busy && rapid.Bool().Draw(t, "ends") {
				s.Busy = false
			}
			for {
				busy := s.Busy
				p := table.Plan("s", s, now)
				if overlap != "allow" && (len(p.Enqueue) > 1 || busy && len(p.Enqueue) > 0) {
					t.Fatalf("overlap: %+v", p)
				}
				if p.Cancel && (overlap != "cancel" || !busy) {
					t.Fatalf("nothing to cancel: %+v", p)
				}
				enqueued = append(enqueued, p.Enqueue...)
				s = p.State
				if s.Due.After(now) {
					break
				}
			}
			if len(enqueued) > 0 && !s.Buffered.IsZero() && !s.Buffered.After(enqueued[len(enqueued)-1]) {
				t.Fatalf("%s waits, and a later one was enqueued", s.Buffered)
			}
		}
		if !slices.IsSortedFunc(enqueued, func(a, b time.Time) int {
			if a.Equal(b) {
				return 1 // twice
			}
			return a.Compare(b)
		}) {
			t.Fatalf("twice, or out of order: %v", enqueued)
		}
		left := int64(0)
		if !s.Buffered.IsZero() {
			left = 1
		}
		if total := int64(s.Tick.Sub(first) / time.Minute); int64(len(enqueued))+s.Skipped+s.Missed+left != total {
			t.Fatalf("%d ticks: %d enqueued, %d skipped, %d missed, %d waits", total, len(enqueued), s.Skipped, s.Missed, left)
		}
	})
}

// Whatever it accepts ticks later than it is asked for, on a whole second, and
// what it refuses has a reason.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"* * * * *", "30 2 * * *", "0 9 13 * FRI", "@daily", "0 0 29 2 *", "*/7 0-23/5 ? JAN-DEC 0-6", "TZ=x", "@every 1h", "0 0 31 4 *"} {
		f.Add(s, "Europe/Berlin", int64(1774746000))
	}
	f.Add("0 * 24 4 *", "Africa/Cairo", int64(1776981600))
	f.Fuzz(func(t *testing.T, cron, location string, after int64) {
		table, err := schedule.Parse(schedule.Spec{Cron: cron, Location: location}.Normal())
		if err != nil {
			var field *schedule.FieldError
			if !errors.As(err, &field) || field.Reason == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		from := time.Unix(after%4e9, 0)
		next := table.Next(from)
		if next.IsZero() {
			return // a 29 February may be eight years away
		}
		if !next.After(from) || next.Nanosecond() != 0 || !table.Next(next.Add(-time.Second)).Equal(next) {
			t.Fatalf("%q in %s after %s: %s", cron, location, from, next)
		}
	})
}
