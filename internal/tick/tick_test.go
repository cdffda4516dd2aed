package tick

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/schedule"
)

// Whatever a schedule's row says, there is a reason why it cannot be done, or a plan
// that comes to an end and does not go back.
func FuzzTimetable(f *testing.F) {
	for _, s := range []string{
		"", "null", "{}", "[", `{"cron":"30 2 * * *","location":"Europe/Berlin","catch_up":86400000000000,"overlap":"skip"}`,
		`{"every":1000000000,"jitter":999999999,"catch_up":10000000000,"overlap":"cancel"}`, `{"every":9e18,"jitter":9e18,"catch_up":9e18,"overlap":"buffer"}`,
		`{"cron":"0 0 29 2 *","location":"Local","catch_up":86400000000000,"overlap":"allow"}`, `{"cron":"* * * * *","location":"UTC","catch_up":86400000000000,"overlap":"of a later program"}`,
	} {
		f.Add(s, int64(1774746000), int64(1774749600), true)
	}
	f.Fuzz(func(t *testing.T, spec string, tick, now int64, live bool) {
		r := Row{Name: "fuzzed", Spec: spec, Now: time.Unix(now%4e9, 0)}
		if live {
			r.Live = []int64{1}
		}
		due := time.Unix(tick%4e9, 0)
		r.Tick, r.Due = &due, &due
		table, err := r.Timetable()
		if err != nil {
			if table != nil || err.Error() == "" {
				t.Fatalf("%q: %v beside %v", spec, table, err)
			}
			return
		}
		kept, err := json.Marshal(table.Spec)
		again := Row{Spec: string(kept)}
		if err != nil {
			t.Fatal(err)
		}
		if back, err := again.Timetable(); err != nil || back.Spec != table.Spec {
			t.Fatalf("%q is kept as %s, which is read as %v, %v", spec, kept, back, err)
		}
		p := table.Plan(r.Name, r.state(), r.Now)
		if next := p.State.Tick; !next.IsZero() && next.Before(due) || p.State.Skipped < 0 || p.State.Missed < 0 {
			t.Fatalf("%q from %s at %s: %+v", spec, due, r.Now, p)
		}
		if p.Cancel && (!live || table.Overlap != schedule.Cancel) {
			t.Fatalf("%q cancels what it must not: %+v", spec, p)
		}
	})
}
