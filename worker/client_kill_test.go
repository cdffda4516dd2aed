//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/workflow"
)

// A clientKilling is a call of a client that writes, in a process that dies of it.
type clientKilling struct {
	verb       string
	statements []string
	begin      func(*fixture) workflow.RunID // makes what it is done to
	do         func(context.Context, *workflow.Client, workflow.RunID) error
	admin      func(context.Context, *identity.Profiles) error // instead of do
	commit     int                                             // which one; 0: the first
	done       string                                          // counts what it has come to
	again      int                                             // what that is when it was done twice
	refused    bool                                            // the second time
}

func ready(f *fixture) workflow.RunID { return f.travel(plain...).run.ID }

func ofSchedule(do func(workflow.Schedule, context.Context) error) func(context.Context, *workflow.Client, workflow.RunID) error {
	return func(ctx context.Context, c *workflow.Client, _ workflow.RunID) error {
		return do(c.Schedule("killed"), ctx)
	}
}

// In this order: those of the schedule build on each other.
var clientKillings = []clientKilling{
	{verb: "enqueue", statements: []string{"LimitPut", "RunInsert"}, again: 1,
		do: func(ctx context.Context, c *workflow.Client, _ workflow.RunID) error {
			_, err := journey.Enqueue(ctx, c, trip{Path: plain}, workflow.EnqueueOptions{Tenant: "killed", Key: "killed", Limit: one})
			return err
		},
		done: `SELECT count(*) FROM stepward.run r JOIN stepward.ready USING (tenant) JOIN stepward.run_limit l ON l.key = r.limit_key
			WHERE r.tenant = 'killed' AND $1::bigint = 0`},
	{verb: "send", statements: []string{"SignalSend"}, again: 2, begin: ready,
		do: func(ctx context.Context, c *workflow.Client, id workflow.RunID) error {
			return letter.Send(ctx, c, id, "killed")
		},
		done: "SELECT count(*) FROM stepward.signal WHERE run_id = $1"},
	{verb: "cancel", statements: []string{"RunCancel"}, again: 1, refused: true, begin: ready,
		do:   func(ctx context.Context, c *workflow.Client, id workflow.RunID) error { return c.Cancel(ctx, id) },
		done: "SELECT count(*) FROM stepward.run WHERE id = $1 AND state = 'canceled'"},
	{verb: "terminate", statements: []string{"RunTerminate"}, again: 1, refused: true, begin: ready,
		do:   func(ctx context.Context, c *workflow.Client, id workflow.RunID) error { return c.Terminate(ctx, id) },
		done: "SELECT count(*) FROM stepward.run r JOIN stepward.event e ON e.run_id = r.id WHERE r.id = $1 AND state = 'canceled' AND e.kind = 'run.terminate'"},
	{verb: "pause", statements: []string{"RunPause"}, again: 1, begin: ready,
		do:   func(ctx context.Context, c *workflow.Client, id workflow.RunID) error { return c.Pause(ctx, id) },
		done: "SELECT count(*) FROM stepward.parked p JOIN stepward.event e USING (run_id) WHERE run_id = $1 AND p.reason = 'paused' AND e.kind = 'run.pause'"},
	{verb: "resume", statements: []string{"RunResume"}, again: 1, refused: true,
		begin: func(f *fixture) workflow.RunID { return f.does(ready(f), f.client.Pause) },
		do:    func(ctx context.Context, c *workflow.Client, id workflow.RunID) error { return c.Resume(ctx, id) },
		done:  "SELECT count(*) FROM stepward.ready JOIN stepward.event e USING (run_id) WHERE run_id = $1 AND e.kind = 'run.resume'"},
	{verb: "retry", statements: []string{"RetrySteps", "RetryAttempts", "RunRetry"}, again: 1, refused: true,
		begin: func(f *fixture) workflow.RunID { return f.does(ready(f), f.client.Cancel) },
		do:    func(ctx context.Context, c *workflow.Client, id workflow.RunID) error { return c.Retry(ctx, id) },
		done:  "SELECT count(*) FROM stepward.ready JOIN stepward.event e USING (run_id) WHERE run_id = $1 AND e.kind = 'run.retry'"},
	{verb: "repin", statements: []string{"RunRepin"}, again: 1,
		begin: func(f *fixture) workflow.RunID {
			id := ready(f)
			f.exec("INSERT INTO stepward.definition (workflow, version, requirement_id, steps) SELECT workflow, '2', requirement_id, steps FROM stepward.definition WHERE workflow = 'journey'")
			return id
		},
		do: func(ctx context.Context, c *workflow.Client, id workflow.RunID) error {
			return c.Repin(ctx, id, "2")
		},
		done: "SELECT count(*) FROM stepward.run r JOIN stepward.event e ON e.run_id = r.id WHERE r.id = $1 AND version = '2' AND e.kind = 'run.repin'"},
	{verb: "fork", statements: []string{"RunInsert", "RunFork", "RunForked"}, again: 2,
		begin: func(f *fixture) workflow.RunID {
			return workflow.RunID(f.count("SELECT id FROM stepward.run WHERE state = 'completed'"))
		},
		do: func(ctx context.Context, c *workflow.Client, id workflow.RunID) error {
			_, err := c.Fork(ctx, id, workflow.ForkOptions{From: "b"})
			return err
		},
		done: "SELECT count(DISTINCT s.run_id) FROM stepward.event e JOIN stepward.step s ON s.key = 'a' WHERE e.run_id = $1 AND e.kind = 'run.forked' AND s.run_id <> $1"},
	{verb: "schedule", statements: []string{"SchedulePut"}, again: 1,
		do: func(ctx context.Context, c *workflow.Client, _ workflow.RunID) error {
			_, err := report.Schedule(ctx, c, false, workflow.ScheduleOptions{Name: "killed", Every: 24 * time.Hour})
			return err
		},
		done: "SELECT count(*) FROM stepward.schedule WHERE $1::bigint = 0"},
	{verb: "pause of a schedule", statements: []string{"SchedulePause"}, again: 1, do: ofSchedule(workflow.Schedule.Pause),
		done: "SELECT count(*) FROM stepward.schedule WHERE paused AND due_at IS NULL AND $1::bigint = 0"},
	{verb: "resume of a schedule", statements: []string{"ScheduleResume"}, again: 1, do: ofSchedule(workflow.Schedule.Resume),
		done: "SELECT count(*) FROM stepward.schedule WHERE NOT paused AND due_at IS NOT NULL AND $1::bigint = 0"},
	{verb: "trigger", statements: []string{"RunInsert"}, again: 2,
		do: ofSchedule(func(s workflow.Schedule, ctx context.Context) error { _, err := s.Trigger(ctx); return err }),
		done: `SELECT count(*) FROM stepward.run r JOIN stepward.ready q ON q.run_id = r.id
			WHERE workflow = 'report' AND tick > now() - interval '1 day' AND $1::bigint = 0`},
	{verb: "backfill", statements: []string{"RunInsert"}, commit: 2, again: 1, // the first reads what is due
		do: ofSchedule(func(s workflow.Schedule, ctx context.Context) error {
			from := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
			_, err := s.Backfill(ctx, from, from.Add(24*time.Hour-time.Second))
			return err
		}),
		done: "SELECT count(*) FROM stepward.run r JOIN stepward.ready q ON q.run_id = r.id WHERE workflow = 'report' AND tick < '2021-01-01' AND $1::bigint = 0"},
	{verb: "delete of a schedule", statements: []string{"ScheduleDelete"}, again: 1, refused: true, do: ofSchedule(workflow.Schedule.Delete),
		done: "SELECT 1 - count(*) FROM stepward.schedule WHERE $1::bigint = 0"},
	{verb: "enqueue many", statements: []string{"RunInsert"}, again: 1,
		do: func(ctx context.Context, c *workflow.Client, _ workflow.RunID) error {
			items := func(yield func(trip, workflow.EnqueueOptions) bool) {
				for i := range 3 {
					if !yield(trip{Path: plain}, workflow.EnqueueOptions{Tenant: "many", Key: fmt.Sprint(i)}) {
						return
					}
				}
			}
			var errs []error
			for _, err := range journey.EnqueueMany(ctx, c, items) {
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
		done: "SELECT count(*) / 3 FROM stepward.run r JOIN stepward.ready q ON q.run_id = r.id WHERE r.tenant = 'many' AND $1::bigint = 0"},

	// And those of who administers profiles.
	{verb: "put", statements: []string{"ProfileInsert", "IdentityEvent"}, again: 1, admin: puts("eu"), done: ofProfiles("profile", "keys::text LIKE '%eu%'", "profile.put")},
	{verb: "put again", statements: []string{"ProfileUpdate", "IdentityEvent"}, again: 1, admin: puts("us"), done: ofProfiles("profile", "keys::text LIKE '%us%'", "profile.put")},
	{verb: "revoke", statements: []string{"IdentityHold", "IdentityEpoch", "RevocationInsert", "IdentityEvent"}, again: 1,
		admin: func(ctx context.Context, p *identity.Profiles) error {
			return p.Revoke(ctx, identity.Revocation{Tenant: "killed", Kind: identity.KindKey, Target: "REGION", State: identity.Soft})
		},
		done: ofProfiles("revocation", "target = 'REGION' AND state > 0", "identity.revoked")},
	{verb: "rotate", statements: []string{"IdentityHold", "IdentityEpoch", "RevocationInsert", "IdentityEvent"}, again: 1,
		admin: func(ctx context.Context, p *identity.Profiles) error { return p.Rotate(ctx, "killed", "REGION", "2") },
		done:  ofProfiles("revocation", "target = 'REGION' AND version = '2'", "key.rotated")},
	{verb: "delete of a profile", statements: []string{"ProfileDelete", "IdentityHold", "IdentityEpoch", "RevocationInsert", "IdentityEvent"}, again: 1, refused: true,
		admin: func(ctx context.Context, p *identity.Profiles) error {
			pr, err := p.Get(ctx, "killed", "regions")
			if err != nil {
				return err
			}
			return p.Delete(ctx, pr)
		},
		done: ofProfiles("revocation", "kind = 'profile' AND NOT EXISTS (SELECT FROM stepward.profile)", "profile.deleted")},
}

// puts returns what makes, or changes, a profile of the tenant killed.
func puts(region string) func(context.Context, *identity.Profiles) error {
	return func(ctx context.Context, p *identity.Profiles) error {
		pr, err := p.Get(ctx, "killed", "regions")
		if errors.Is(err, identity.ErrNotFound) {
			pr, err = identity.Profile{Name: "regions", Scope: identity.Scope{Tenant: "killed"}}, nil
		}
		if err != nil {
			return err
		}
		pr.Keys = map[string]identity.Key{"REGION": {Knob: region}}
		return p.Put(ctx, pr)
	}
}

// ofProfiles counts rows that have an event beside them.
func ofProfiles(table, which, event string) string {
	return "SELECT count(*) FROM stepward." + table + " WHERE tenant = 'killed' AND " + which +
		" AND EXISTS (SELECT FROM stepward.event WHERE tenant = 'killed' AND kind = '" + event + "') AND $1::bigint = 0"
}

// call does it, as who has the pool.
func (k clientKilling) call(ctx context.Context, pool *pgxpool.Pool, schema string, run workflow.RunID) error {
	if k.admin != nil {
		p, err := identity.New(pool, identity.Options{Schema: schema})
		if err != nil {
			return err
		}
		return k.admin(ctx, p)
	}
	c, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema})
	if err != nil {
		return err
	}
	return k.do(ctx, c, run)
}

func clientKills(statement string) bool {
	return slices.ContainsFunc(clientKillings, func(k clientKilling) bool { return slices.Contains(k.statements, statement) })
}

// beClient is main of a process that calls a client.
func beClient(ctx context.Context, pool *pgxpool.Pool) int {
	k := clientKillings[slices.IndexFunc(clientKillings, func(k clientKilling) bool { return k.verb == victim.Client })]
	if err := k.call(ctx, pool, victim.Schema, workflow.RunID(victim.Run)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// What a client does is there as a whole or not at all: it dies before and after each
// of its writes, and nothing of any table has changed; it dies before it hears of the
// commit, and everything has. What a repetition comes to is as documented.
func TestKillClient(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stop := f.takeOver()
	f.travel(plain...).arrives(t.Context(), nil, 0)
	stop() // from here on nothing but the victims writes
	for _, k := range clientKillings {
		var id workflow.RunID
		if k.begin != nil {
			id = k.begin(f)
		}
		dies := func(at string) {
			t.Helper()
			f.startVictim(victimConfig{Client: k.verb, Run: int64(id)}, at).diedOf(syscall.SIGKILL)
		}
		was := f.whole()
		for _, s := range k.statements {
			for _, when := range []string{"before", "after"} {
				dies(s + ":" + when + ":1")
				if is := f.whole(); !maps.Equal(was, is) {
					t.Errorf("%s, killed %s %s, has changed %v", k.verb, when, s, changed(was, is))
				}
			}
		}
		if n := f.count(k.done, int64(id)); n != 0 {
			t.Errorf("%s: done before it is: %d", k.verb, n)
		}
		dies(fmt.Sprintf("commit:after:%d", max(1, k.commit)))
		if n := f.count(k.done, int64(id)); n != 1 {
			t.Errorf("%s, killed when it was committed: %d", k.verb, n)
		}
		if err := k.call(t.Context(), f.pool, f.schema, id); (err != nil) != k.refused {
			t.Errorf("%s, again: %v", k.verb, err)
		}
		if n := f.count(k.done, int64(id)); n != k.again {
			t.Errorf("%s, again: %d, want %d", k.verb, n, k.again)
		}
	}
}

func changed(was, is map[string]string) (tables []string) {
	for table := range is {
		if was[table] != is[table] {
			tables = append(tables, table)
		}
	}
	return tables
}

// does does something to a run.
func (f *fixture) does(id workflow.RunID, verb func(context.Context, workflow.RunID) error) workflow.RunID {
	f.t.Helper()
	if err := verb(f.t.Context(), id); err != nil {
		f.t.Fatal(err)
	}
	return id
}

// whole returns what is in each table, and in those of River.
func (f *fixture) whole() map[string]string {
	f.t.Helper()
	var tables []string
	err := f.pool.QueryRow(f.t.Context(), `SELECT array_agg(format('%I.%I', schemaname, tablename)) FROM pg_tables WHERE schemaname IN ($1, $2)`,
		f.schema, f.schema+"_river").Scan(&tables)
	if err != nil {
		f.t.Fatal(err)
	}
	all := make(map[string]string, len(tables))
	for _, table := range tables {
		var text string
		if err := f.pool.QueryRow(f.t.Context(), `SELECT coalesce(string_agg(t::text, E'\n' ORDER BY t::text), '') FROM `+table+` t`).Scan(&text); err != nil {
			f.t.Fatal(err)
		}
		all[table] = text
	}
	return all
}
