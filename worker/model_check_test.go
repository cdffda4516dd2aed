//go:build unix

package worker_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/payload"
	"github.com/stepward/stepward/workflow"
)

// clear takes away what an earlier scenario left, which may have failed.
func (f *fleet) clear() {
	f.losses = 0
	for _, table := range []string{"run", "idempotency", "deadline", "ready", "turn", "run_limit", "timer", "wait", "signal", "notice", "parked", "claim",
		"step", "shown", "progress", "entry", "attempt", "event", "blob_use", "blob", "schedule", "paid"} {
		f.exec("DELETE FROM stepward." + table)
	}
}

func (f *fleet) status(rt judge, id workflow.RunID) workflow.RunStatus {
	s, err := f.client.Get(f.t.Context(), id)
	if err != nil {
		rt.Fatal(err)
	}
	return s
}

// until polls until done reports true.
func (f *fleet) until(rt judge, what string, done func() bool) {
	start := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		<-tick.C
		if time.Since(start) > patience {
			rt.Fatalf("did not happen: %s\n%s", what, f.everywhere())
		}
	}
}

// everywhere says where each live run is.
func (f *fleet) everywhere() (text string) {
	rows, err := f.pool.Query(f.t.Context(), f.sql(`SELECT r.id || ' ' || r.workflow || ' ' || r.state || ' epoch ' || r.epoch || ' crashes ' || r.crashes || ' cancel ' || r.cancel || ' pause ' || r.pause
		|| coalesce(' parked ' || p.reason || ' ' || convert_from(p.detail, 'UTF8'), '') || coalesce(' turn ' || t.session || ' of ' || w.name || ' ' || w.state, '')
		|| CASE WHEN q.run_id IS NULL THEN '' ELSE ' ready ' || q.gate END || CASE WHEN tm.run_id IS NULL THEN '' ELSE ' timer ' || coalesce(tm.wake_at::text, '') END
		|| coalesce(' waits: ' || (SELECT string_agg(x.key || ' ' || coalesce(x.signal, '') || ' ' || coalesce(x.child_id, 0), ', ') FROM stepward.wait x WHERE x.run_id = r.id), '')
		|| ' signals ' || (SELECT count(*) FROM stepward.signal g WHERE g.run_id = r.id AND NOT received) || ' ' || encode(substr(r.input, 1, 1000), 'escape')
		FROM stepward.run r LEFT JOIN stepward.parked p ON p.run_id = r.id LEFT JOIN stepward.turn t ON t.run_id = r.id LEFT JOIN stepward.worker w ON w.session = t.session
		LEFT JOIN stepward.ready q ON q.run_id = r.id LEFT JOIN stepward.timer tm ON tm.run_id = r.id ORDER BY r.id`))
	if err != nil {
		return err.Error()
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err.Error()
	}
	for _, l := range lines {
		text += l + "\n"
	}
	return text
}

// moves waits until something has got on, or nothing does by itself.
func (f *fleet) moves(rt judge, runs []workflow.Run[int]) {
	progress := func() int {
		return f.count("SELECT (SELECT count(*) FROM stepward.step) + (SELECT count(*) FROM stepward.claim) + (SELECT count(*) FROM stepward.event)")
	}
	was := progress()
	f.until(rt, "a run moves", func() bool {
		for _, run := range runs {
			if s := f.status(rt, run.ID).State; s != workflow.StateReady && s != workflow.StateRunning {
				return true
			}
		}
		return progress() > was || f.deserted() || f.count("SELECT count(*) FROM stepward.wait") > 0 || f.hours > 0
	})
}

// attend does what an operator does: runs that are paused, or have crashed too
// often, go on. There must be no other reason for a run to be parked.
func (f *fleet) attend(rt judge) {
	if n := f.count("SELECT count(*) FROM stepward.parked WHERE reason NOT IN ('paused', 'crashed')"); n > 0 {
		rt.Fatalf("parked:\n%s", f.everywhere())
	}
	if f.losses < 5 && f.count("SELECT count(*) FROM stepward.parked WHERE reason = 'crashed'") > 0 {
		rt.Fatalf("parked after %d losses:\n%s", f.losses, f.everywhere())
	}
	_, err := f.client.Each(f.t.Context(), workflow.RunFilter{State: workflow.StateParked}, f.client.Resume)
	if err != nil && !refuses(err) {
		rt.Fatal(err)
	}
}

// settled waits until no run is live, and nothing is left of any.
func (f *fleet) settled(rt judge) {
	f.until(rt, "no run is live", func() bool {
		f.attend(rt)
		return f.count("SELECT count(*) FROM stepward.run WHERE state = 'live'") == 0
	})
	for _, table := range []string{"ready", "turn", "timer", "parked", "wait", "notice"} {
		f.until(rt, "nothing is left in "+table, func() bool { return f.count("SELECT count(*) FROM stepward."+table) == 0 })
	}
	f.until(rt, "no deadline is overdue", func() bool {
		var late int
		if err := f.clients.QueryRow(f.t.Context(), f.sql("SELECT count(*) FROM stepward.deadline WHERE at < now()")).Scan(&late); err != nil {
			rt.Fatal(err)
		}
		return late == 0
	})
	f.consistent(rt)
}

// correct checks every run that has ended, children and forks included.
func (f *fleet) correct(rt judge) {
	type row struct {
		ID                                       int64
		Workflow, State                          string
		Input, Output                            []byte
		Retries, Renewals, Ends, Left, Unclaimed int
		Told                                     []string
		Shown                                    map[string]json.RawMessage
	}
	rows, err := f.pool.Query(f.t.Context(), f.sql(`SELECT r.id, r.workflow, r.state::text, r.input, r.output,
		(SELECT count(*) FROM stepward.event e WHERE e.run_id = r.id AND kind = 'run.retry'),
		(SELECT count(*) FROM stepward.event e WHERE e.run_id = r.id AND kind = 'run.renewed'),
		(SELECT count(*) FROM stepward.audit_event e WHERE e.run_id = r.id AND kind IN ('run.completed', 'run.failed', 'run.canceled')),
		(SELECT count(*) FROM stepward.signal g WHERE g.run_id = r.id AND NOT received),
		(SELECT count(*) FROM stepward.step s WHERE s.run_id = r.id AND s.epoch > 0 AND NOT EXISTS (SELECT FROM stepward.claim c WHERE c.run_id = r.id AND c.epoch = s.epoch)),
		(SELECT coalesce(array_agg(convert_from(payload, 'UTF8')::json #>> '{}' ORDER BY convert_from(payload, 'UTF8')), '{}') FROM stepward.entry e WHERE e.run_id = r.id),
		(SELECT coalesce(json_object_agg(name, convert_from(value, 'UTF8')::json), '{}') FROM stepward.progress p WHERE p.run_id = r.id)
		FROM stepward.run r ORDER BY r.id`))
	if err != nil {
		rt.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		rt.Fatal(err)
	}
	for _, r := range all {
		id := workflow.RunID(r.ID)
		if r.Ends != 1+r.Retries {
			rt.Fatalf("%v ended %d times, and was retried %d times", id, r.Ends, r.Retries)
		}
		if r.Unclaimed != 0 {
			rt.Fatalf("%v has checkpoints of an epoch that was not claimed", id)
		}
		if r.State != "completed" {
			continue
		}
		if payload.BlobKey(r.Input) != "" {
			r.Input = f.input(rt, id)
		}
		var p program
		if err := json.Unmarshal(r.Input, &p); err != nil {
			rt.Fatal(err)
		}
		m := p.model()
		if string(r.Output) != fmt.Sprint(m.value) {
			rt.Fatalf("%v came to %s, not %d", id, r.Output, m.value)
		}
		if r.Left != 0 {
			rt.Fatalf("%v did not receive %d coins", id, r.Left)
		}
		def := randomV1
		if r.Workflow == child.Name {
			def = childV1
		}
		if err := f.client.Replay(f.t.Context(), id, def); err != nil {
			rt.Fatalf("what is on record of %v does not fit: %v", id, err)
		}
		if r.Retries > 0 { // it has shown some of it again
			continue
		}
		var told []string
		for range 1 + r.Renewals {
			told = append(told, m.told...)
		}
		slices.Sort(told)
		if !slices.Equal(r.Told, told) {
			rt.Fatalf("%v appended %q, not %q", id, r.Told, told)
		}
		if !reflect.DeepEqual(r.Shown, m.shown) {
			rt.Fatalf("%v shows %v, not %v", id, r.Shown, m.shown)
		}
	}
	f.once(rt)
	f.started(rt)
	if n := f.count("SELECT count(*) FROM stepward.blob_use u WHERE NOT EXISTS (SELECT FROM stepward.blob b WHERE b.key = u.key)"); n != 0 {
		rt.Fatalf("%d blobs are missing", n)
	}
}

// input returns the input of a run that is kept apart.
func (f *fleet) input(rt judge, id workflow.RunID) []byte {
	var history struct{ Input json.RawMessage }
	b, err := f.client.Export(f.t.Context(), id)
	if err == nil {
		err = json.Unmarshal(b, &history)
	}
	if err != nil {
		rt.Fatal(err)
	}
	return history.Input
}

// started checks that each call on record that started a run for itself has one of
// its own. If nothing was taken off the record, there is no other.
func (f *fleet) started(rt judge) {
	var calls, runs, all, undone int
	if err := f.pool.QueryRow(f.t.Context(), f.sql(`
		WITH started AS (SELECT convert_from(output, 'UTF8') AS id FROM stepward.step WHERE epoch > 0 AND output IS NOT NULL AND substr(output, 1, 5) = '"run_'::bytea)
		SELECT (SELECT count(*) FROM started), (SELECT count(DISTINCT id) FROM started),
			(SELECT count(*) FROM stepward.run WHERE workflow = $1 AND parent_id IS NULL),
			(SELECT count(*) FROM stepward.run WHERE state <> 'completed') + (SELECT count(*) FROM stepward.event WHERE kind IN ('run.retry', 'run.renewed', 'run.forked'))`),
		child.Name).Scan(&calls, &runs, &all, &undone); err != nil {
		rt.Fatal(err)
	}
	if runs != calls || all < runs || undone == 0 && all != runs {
		rt.Fatalf("%d calls have started %d runs, and there are %d", calls, runs, all)
	}
}

// once checks that there is one result for each place in the order of results, and
// that what the steps did to the application's table is there as often as their
// checkpoints are, were taken back by a retry, or went when the run began anew.
func (f *fleet) once(rt judge) {
	if n := f.count("SELECT count(*) FROM (SELECT FROM stepward.step GROUP BY run_id, done HAVING count(*) > 1) d"); n != 0 {
		rt.Fatalf("%d results have one place", n)
	}
	var wrong string
	if err := f.pool.QueryRow(f.t.Context(), f.sql(`
		WITH did AS (SELECT run_id, key, count(*) AS n FROM stepward.paid GROUP BY 1, 2), shall AS (
			SELECT run_id, key, count(*) AS n FROM (
				SELECT run_id, key FROM stepward.step WHERE epoch > 0 AND error = ''
				UNION ALL SELECT run_id, step FROM stepward.event WHERE kind = 'step.completed' AND (convert_from(detail, 'UTF8')::json ->> 'epoch')::int > 0
			) k WHERE key ~ '(^|/)(pay|mop)(#[0-9]+)?$' GROUP BY 1, 2
		)
		SELECT coalesce(string_agg(j.run_id || ' ' || j.key || ': ' || j.did || ' times, not ' || j.shall + again.n, '; '), '')
		FROM (SELECT run_id, key, coalesce(did.n, 0) AS did, coalesce(shall.n, 0) AS shall FROM did FULL JOIN shall USING (run_id, key)) j
		CROSS JOIN LATERAL (SELECT count(*) AS n FROM stepward.event e WHERE e.run_id = j.run_id AND e.kind = 'run.renewed') again
		WHERE j.did <> j.shall + again.n`)).Scan(&wrong); err != nil {
		rt.Fatal(err)
	}
	if wrong != "" {
		rt.Fatalf("paid %s", wrong)
	}
}
