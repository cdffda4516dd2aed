//go:build unix

package worker_test

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A killing is one way to lose a worker while it holds a run.
type killing struct {
	name string // unless it is that of the statement
	path []string

	// first dies after its crash point, before the victim starts.
	first      victimConfig
	firstCrash string
	victim     victimConfig
	drain      bool // SIGTERM as soon as the victim executes step hold
	statement  string
	n          int  // which execution of it
	wake       bool // the run may wait in timer after each death
	ticks      bool // a schedule is due, beside the run
	unknown    bool // as ticks, but the schedule is of a kind that no worker knows
	pause      bool // the client pauses the run in step hold, and resumes it when it is parked
	late       bool // its deadline passes after the first death
	limit      workflow.Limit
	idle       bool // there is a limit that no run has
}

var (
	plain = []string{"a", "b", "c"}
	one   = workflow.Limit{Key: "one", Concurrency: 1, Rate: 1000}
	holds = victimConfig{Hold: "context", DrainTimeout: time.Millisecond}
)

// Each write that a worker makes, and each place that it has in the life of a
// run. TestKill dies before and after every one of them.
var killings = []killing{
	{statement: "RequirementInsert", n: 1, path: plain},
	{statement: "DefinitionInsert", n: 1, path: plain},
	{statement: "WorkerInsert", n: 1, path: plain},
	{statement: "WorkerForget", n: 1, path: plain},
	{statement: "WorkerHeartbeat", n: 1, path: []string{"a", "hold", "c"}, victim: victimConfig{Hold: "context", LeaseTTL: time.Second}},
	{statement: "Claim", n: 1, path: plain},
	{statement: "ClaimLimited", n: 1, path: plain, limit: one},
	{name: "limited", statement: "Commit", n: 3, path: plain, limit: one},
	{name: "limited", statement: "TurnReap", n: 1, path: plain, limit: one, firstCrash: "Commit:after:1"},
	{name: "first", statement: "Commit", n: 1, path: plain},
	{name: "middle", statement: "Commit", n: 2, path: plain},
	{name: "last", statement: "Commit", n: 3, path: plain},
	{name: "failure", statement: "Commit", n: 2, path: []string{"a", "flaky", "c"}},
	{name: "heartbeat", statement: "Commit", n: 2, path: []string{"a", "beat", "c"}},
	{statement: "AttemptDispatch", n: 1, path: []string{"a", "box", "c"}},
	{name: "shared", statement: "AttemptDispatch", n: 2, path: []string{"den", "lair", "c"}},
	{name: "shared", statement: "SandboxDestroyed", n: 1, path: []string{"den", "lair", "hold"}, victim: holds, drain: true},
	{statement: "SandboxWarm", n: 1, path: []string{"a", "box", "c"}, victim: victimConfig{Warm: worker.Warm{Min: 1, Max: 1}}},
	{statement: "SandboxCreated", n: 1, path: []string{"a", "box", "c"}},
	{statement: "AttemptTake", n: 1, path: []string{"a", "box", "c"}, firstCrash: "SandboxCreated:after:1"},
	{statement: "SandboxSweep", n: 1, path: []string{"a", "box", "c"}, firstCrash: "SandboxCreated:after:1"},
	{statement: "SandboxEgress", n: 1, path: []string{"a", "box", "c"}},
	{statement: "SandboxDestroyed", n: 1, path: []string{"a", "box", "c"}},
	{name: "sandboxed", statement: "Commit", n: 2, path: []string{"a", "box", "c"}},
	{name: "timer", statement: "TurnLeave", n: 1, path: []string{"a", "slow", "c"}, wake: true},
	{name: "parked", statement: "TurnLeave", n: 1, path: []string{"a", "gate", "c"}, victim: victimConfig{Old: true}},
	{name: "ready", statement: "TurnLeave", n: 1, path: []string{"a", "hold", "c"}, victim: holds, drain: true},
	{name: "paused", statement: "TurnLeave", n: 1, path: []string{"a", "hold", "c"}, victim: holds, drain: true, pause: true},
	{name: "draining", statement: "WorkerState", n: 1, path: []string{"a", "hold", "c"}, victim: holds, drain: true},
	{name: "gone", statement: "WorkerState", n: 2, path: []string{"a", "hold", "c"}, victim: holds, drain: true},
	{name: "sleep", statement: "TurnLeave", n: 1, path: []string{"a", "nap", "c"}, wake: true},
	{name: "wait", statement: "Commit", n: 1, path: []string{"a", "nap", "c"}, wake: true},
	{name: "signal", statement: "Commit", n: 2, path: []string{"a", "mail", "c"}},
	{statement: "ChildInsert", n: 1, path: []string{"a", "kin", "c"}},
	{statement: "ChildParent", n: 1, path: []string{"a", "kin", "c"}},
	{name: "start", statement: "ChildInsert", n: 1, path: []string{"a", "start", "c"}},
	{name: "start", statement: "Commit", n: 2, path: []string{"a", "start", "c"}},
	// The parent holds, or it might have seen the end of its child and be over.
	{statement: "NoticeWake", n: 1, path: []string{"a", "kin", "hold"}, victim: victimConfig{Hold: "context"}},
	{statement: "NoticeTake", n: 1, path: []string{"a", "kin", "hold"}, first: victimConfig{Hold: "context"}, firstCrash: "NoticeWake:before:1"},
	{name: "child", statement: "Commit", n: 3, path: []string{"a", "kin", "c"}},
	// Large values, written apart.
	{statement: "BlobPut", n: 1, path: []string{"a", "big", "c"}},
	{name: "big", statement: "Commit", n: 2, path: []string{"a", "big", "c"}},
	{statement: "BlobUse", n: 1, path: []string{"a", "bigkin", "c"}},
	{statement: "BlobDelete", n: 1, path: []string{"a", "big", "c"}, firstCrash: "BlobPut:after:1"},
	{statement: "RunExpire", n: 1, path: plain, victim: victimConfig{Retention: time.Nanosecond}},
	{statement: "LimitIdle", n: 1, path: plain, victim: victimConfig{Retention: time.Nanosecond}, idle: true},
	{statement: "LimitDelete", n: 1, path: plain, victim: victimConfig{Retention: time.Nanosecond}, idle: true},
	{statement: "TurnRenew", n: 1, path: []string{"renew", "b", "c"}},
	{name: "show", statement: "Commit", n: 1, path: []string{"tell", "tell", "a", "c"}},
	{name: "show with a step", statement: "Commit", n: 1, path: []string{"a", "tell", "c"}},
	{name: "show at the end", statement: "Commit", n: 2, path: []string{"a", "c", "tell"}},
	{name: "show", statement: "TurnRenew", n: 1, path: []string{"tell", "renew", "tell", "c"}},
	{name: "show", statement: "TurnLeave", n: 1, path: []string{"tell", "nap", "tell"}, wake: true},
	// What any worker does for the others.
	{statement: "ScheduleAdvance", n: 1, path: plain, ticks: true},
	{name: "committed", statement: "ScheduleDue", n: 2, path: plain, ticks: true},
	{statement: "ScheduleProblem", n: 1, path: plain, unknown: true},
	{statement: "WorkerReap", n: 1, path: plain, firstCrash: "Commit:after:1"},
	{statement: "TurnReap", n: 1, path: plain, firstCrash: "Commit:after:1"},
	{statement: "TimerWake", n: 1, path: []string{"a", "slow", "c"}, firstCrash: "TurnLeave:after:1", wake: true},
	{statement: "DeadlineTake", n: 1, path: []string{"a", "late"}, firstCrash: "TurnLeave:after:1", late: true},
	{statement: "DeadlinePass", n: 1, path: []string{"a", "late"}, firstCrash: "TurnLeave:after:1", late: true},
	{statement: "Unpark", n: 1, path: []string{"a", "gate", "c"}, first: victimConfig{Old: true}, firstCrash: "TurnLeave:after:1"},
	{statement: "ParkUnservable", n: 1, path: []string{"a", "box", "c"}, victim: victimConfig{NoBackend: true}},
}

// Statements that write in the broker, which has no lease to lose. Package identity/broker ends it at each.
var brokerWrites = map[string]string{
	"IssueOpened":   "again is no change",
	"IssueClose":    "again is no change",
	"IssueSweep":    "again is no change",
	"IssueLeases":   "they have another turn",
	"IssueReleased": "leases are ended again before it",
	"IssueNoted":    "a refusal stands without it, and nothing is issued",
}

// Statements that write of a session alone, and are of no use to anybody when it is over.
var ownWrites = map[string]string{
	"WorkerOffers": "what it claims; a new session says all of that anew",
	"WorkerLacks":  "what its broker could not do, for a minute",
	"WorkerPasses": "what it leaves to others for that, for less than a minute",
	"WorkerMended": "that its broker can do it again, or that it asks anew",
}

var writes = regexp.MustCompile(`INSERT INTO|DELETE FROM|UPDATE "`)

// A write without a case here would be a guarantee without a test.
func TestKillCoversEveryWrite(t *testing.T) {
	q, err := db.New("")
	if err != nil {
		t.Fatal(err)
	}
	v := reflect.ValueOf(*q)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if !writes.MatchString(v.Field(i).String()) {
			continue
		}
		_, broker := brokerWrites[name]
		client := clientKills(name)
		killed := slices.ContainsFunc(killings, func(k killing) bool { return k.statement == name })
		if _, own := ownWrites[name]; (client || broker || own) == killed {
			t.Errorf("statement %s writes: killed at %v, a client's %v, the broker's %v", name, killed, client, broker)
		}
	}
}

func TestKill(t *testing.T) {
	// Written once, before anything forks: a child that is being started holds
	// the descriptor for a moment, and the kernel executes no file open for writing.
	t.Setenv(sandboxtest.EnvProbe, sandboxtest.BuildProbe(t))
	for _, k := range killings {
		for _, when := range []string{"before", "after"} {
			t.Run(strings.Trim(k.statement+"/"+k.name, "/")+"/"+when, func(t *testing.T) {
				t.Parallel()
				k.test(t, fmt.Sprintf("%s:%s:%d", k.statement, when, k.n))
			})
		}
	}
}

// begin brings a run to where the victim comes in.
func (k killing) begin(f *fixture) *traveller {
	f.t.Helper()
	r := f.travelWith(workflow.EnqueueOptions{Tenant: "acme", Limit: k.limit}, k.path...)
	k.tick(r)
	if k.firstCrash != "" {
		k.first.Name = "first"
		f.startVictim(k.first, k.firstCrash).diedOf(syscall.SIGKILL)
		f.expire("first")
		f.ageBlobs()
		k.wakeUp(r)
	}
	if k.late {
		f.elapse()
	}
	if k.idle {
		f.idleLimit("idle")
	}
	return r
}

func (k killing) test(t *testing.T, crashAt string) {
	f := newFixture(t)
	r := k.begin(f)
	p := f.startVictim(k.victim, crashAt)
	if k.drain {
		eventually(t, "step hold begins", func() bool { return slices.Contains(r.visits(), "hold") })
		k.pauses(r)
		p.signal(syscall.SIGTERM)
	}
	p.diedOf(syscall.SIGKILL)

	before, visited := r.checkpoints(), len(r.visits())
	f.expire("victim")
	k.wakeUp(r)
	f.takeOver()
	k.resumes(r)
	if k.wake { // the crash may have come before the run went to sleep
		eventually(t, "the run ends, or sleeps", func() bool {
			k.wakeUp(r)
			s := f.state(r.run.ID).State
			return s != workflow.StateReady && s != workflow.StateRunning && s != workflow.StateWaiting
		})
	}
	r.arrives(t.Context(), before, visited)
	k.ticked(r)
	if k.limit.Key != "" { // the slot is free
		f.travelWith(workflow.EnqueueOptions{Limit: k.limit}, "a").arrives(t.Context(), nil, 0)
	}
	if slices.Contains(k.path, "box") || slices.Contains(k.path, "den") {
		f.noSandboxLeft()
	}
	if strings.Contains(fmt.Sprint(k.path), "big") {
		f.noBlobLeft()
	}
}

func (k killing) pauses(r *traveller) {
	r.t.Helper()
	if !k.pause {
		return
	}
	if err := r.client.Pause(r.t.Context(), r.run.ID); err != nil {
		r.t.Fatal(err)
	}
}

func (k killing) resumes(r *traveller) {
	r.t.Helper()
	if !k.pause {
		return
	}
	r.parksAs(r.run.ID, "paused")
	if err := r.client.Resume(r.t.Context(), r.run.ID); err != nil {
		r.t.Fatal(err)
	}
}

func (k killing) wakeUp(r *traveller) {
	r.t.Helper()
	if k.wake {
		r.exec("UPDATE stepward.wait SET wake_at = clock_timestamp() WHERE run_id = $1", r.run.ID)
		r.exec("UPDATE stepward.timer SET wake_at = clock_timestamp() WHERE run_id = $1", r.run.ID)
		r.exec("UPDATE stepward.attempt SET retry_at = clock_timestamp() WHERE run_id = $1", r.run.ID)
	}
}

// noSandboxLeft starts a worker, which sweeps first of all, and waits until
// every sandbox on record is gone.
func (f *fixture) noSandboxLeft() {
	f.t.Helper()
	f.takeOver()
	eventually(f.t, "sandboxes of dead workers are gone", func() bool {
		return f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL OR run_id IS NULL") == 0
	})
}

// ageBlobs makes what nothing refers to ready to be swept.
func (f *fixture) ageBlobs() {
	f.t.Helper()
	f.exec("UPDATE stepward.blob SET at = at - interval '1 day'")
}

// noBlobLeft starts a worker, which sweeps first of all, and waits until every
// blob is one that a run refers to.
func (f *fixture) noBlobLeft() {
	f.t.Helper()
	f.ageBlobs()
	f.takeOver()
	eventually(f.t, "blobs that nothing refers to are gone", func() bool {
		return f.count("SELECT count(*) FROM stepward.blob b WHERE loose OR NOT EXISTS (SELECT FROM stepward.blob_use u WHERE u.key = b.key)") == 0
	})
	if n := f.count("SELECT count(*) FROM stepward.blob_use u WHERE NOT EXISTS (SELECT FROM stepward.blob b WHERE b.key = u.key)"); n != 0 {
		f.t.Errorf("%d blobs are missing", n)
	}
}
