// Package db holds the SQL of Stepward: the statements, the migrations that
// make their tables, and the grants that a role needs to run them.
//
// Every statement is in a .sql file under query/, written against the schema
// name stepward; [New] puts the configured name in its place. Nothing relies on
// search_path, on session state or on prepared statements, so that the
// statements work through a pooler in transaction mode.
package db

import (
	"embed"
	"fmt"
	"io/fs"
	"reflect"
	"regexp"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

// SchemaDefault is the schema that an empty name stands for.
const SchemaDefault = "stepward"

// Queries holds the text of each statement, for one schema.
type Queries struct {
	Schema string // of Stepward's own tables
	River  string // of River's tables

	RunInsert, IdempotencyGet, RunResult, RunHistory, RunForkable, RunFork, RunForked, RunList, RunLock string

	RunCancel, RunTerminate, RunPause, RunResume, RunEnd, RetrySteps, RetryAttempts, RunRetry, RunRepin string

	DefinitionNewest, DefinitionGet, DefinitionInsert, RequirementGet, RequirementInsert, RequirementsOf string

	Claim, Commit, CommitOutcome, TurnLeave, TurnHeld, TurnLock, TurnRenew, TurnList, TurnReap string

	SignalSend, SignalList, ChildEnds, ChildWait, ChildInsert, ChildPatience, ChildParent, NoticeTake, NoticeWake string

	StepHistory, StepSizes, StepResults, AttemptHistory, WaitList, StepList, StepPlace, StepKeys string

	ShownGet, EntryList, ProgressList, AttributeEqual, AttributeRange, Watch string

	AttemptDispatch, AttemptTake, SandboxWarm, SandboxCreated, SandboxEgress, SandboxDestroyed, SandboxSweep, SandboxOwned, SandboxTenant string

	RunExpire string

	BlobPut, BlobGet, BlobUse, BlobLoose, BlobDelete string

	LimitPut, LimitOpen, ClaimLimited, LimitUse, LimitIdle, LimitDelete string

	Database, WorkerInsert, WorkerHeartbeat, WorkerState, WorkerOffers, WorkerLacks, WorkerPasses, WorkerMended, RunKind, WorkerReap, WorkerForget string

	DeadlineTake, DeadlinePass, RunLate string

	Backlog, TimerWake, ParkUnservable, Unpark string

	ScheduleNow, SchedulePut, ScheduleList, SchedulePause, ScheduleResume, ScheduleDelete string

	ScheduleDue, ScheduleLock, ScheduleLive, ScheduleAdvance, ScheduleProblem string

	EventList string

	IssueFacts, IssueCheck, IssuePut, IssueOpened, IssueOpen, IssueClose, IssueSweep, IssueLeases, IssueReleased, IssueNoted, Installation string

	IdentityLock, IdentityPatience, IdentityHold, IdentityEpoch, IdentityEvent, ProfileInsert, ProfileUpdate, ProfileDelete, ProfileGet, ProfileList, ProfileLock, ProfileRival, PolicyGet string

	RevocationInsert, RevocationOf, RevocationList, IdentityApply, IdentityShare, RunTenant, BindingGet, BindingKin, BindingExplain, DefinitionSteps string

	WhyWaits, WhyAttempts, WhyHolder, WhyWorkers string
}

//go:embed query/*.sql
var queryFiles embed.FS

var (
	schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)
	schemaWord = regexp.MustCompile(`\bstepward(_river)?\b`)
	queryName  = regexp.MustCompile(`(?m)^-- name: (\w+)\n`)
)

// A SchemaError reports a schema that cannot be used, or not be taken away.
// Nothing was changed.
type SchemaError struct {
	Schema string
	Reason string

	// Have is its version, 0 if no migration was applied; the program works on
	// those from Low to High. All are zero when the version is not the reason.
	Have, Low, High int

	// Workers run on it, and Runs are what a migration down would delete with it.
	Workers, Runs int
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("workflow: schema %q %s", e.Schema, e.Reason)
}

// New returns the statements for a schema; "" is [SchemaDefault].
func New(schema string) (*Queries, error) {
	if schema == "" {
		schema = SchemaDefault
	}
	if !schemaName.MatchString(schema) || strings.HasPrefix(schema, "pg_") {
		return nil, &SchemaError{Schema: schema, Reason: "is no name to use: want 1 to 40 of a-z, 0-9 and _, not starting with a digit or pg_"}
	}
	q := &Queries{Schema: schema, River: schema + "_river"}
	all, err := statements()
	if err != nil {
		return nil, err
	}
	v := reflect.ValueOf(q).Elem()
	for i, text := range all {
		v.Field(i + fixedFields).SetString(q.fill(text))
	}
	return q, nil
}

// fixedFields come before the statements in [Queries].
const fixedFields = 2

// statements are what the fields of [Queries] hold, but for the schemas' names. To
// find where these go takes some milliseconds, the same for every schema.
var statements = sync.OnceValues(func() (all []string, err error) {
	texts, err := parse(queryFiles)
	if err != nil {
		return nil, err
	}
	t := reflect.TypeFor[Queries]()
	for i := fixedFields; i < t.NumField(); i++ {
		name := t.Field(i).Name
		text, ok := texts[name]
		if !ok {
			return nil, fmt.Errorf("db: no statement is named %s", name)
		}
		// The name shows in pg_stat_activity and in logs.
		all = append(all, "/* stepward "+name+" */ "+blank(text))
		delete(texts, name)
	}
	for name := range texts {
		return nil, fmt.Errorf("db: statement %s has no field", name)
	}
	return all, nil
})

// Channel is where runs that are held are told that something has arrived.
func (q *Queries) Channel() string { return q.Schema + "_news" }

// WatchChannel is where clients that watch a run are told that it shows more, or
// has ended.
func (q *Queries) WatchChannel() string { return q.Schema + "_watch" }

// in puts the schemas' names where a statement says stepward or stepward_river.
func (q *Queries) in(text string) string { return q.fill(blank(text)) }

// What stands for the two schemas in a statement that [blank] has returned.
const blankSchema, blankRiver = "\x00", "\x01"

func blank(text string) string {
	return schemaWord.ReplaceAllStringFunc(text, func(word string) string {
		if word == "stepward" {
			return blankSchema
		}
		return blankRiver
	})
}

func (q *Queries) fill(text string) string {
	text = strings.ReplaceAll(text, blankSchema, pgx.Identifier{q.Schema}.Sanitize())
	return strings.ReplaceAll(text, blankRiver, pgx.Identifier{q.River}.Sanitize())
}

// parse returns the statements of all files, each under its name.
func parse(files fs.FS) (map[string]string, error) {
	paths, err := fs.Glob(files, "query/*.sql")
	if err != nil {
		return nil, err
	}
	out := make(map[string]string)
	for _, path := range paths {
		data, err := fs.ReadFile(files, path)
		if err != nil {
			return nil, err
		}
		text := string(data)
		marks := queryName.FindAllStringSubmatchIndex(text, -1)
		for i, m := range marks {
			end := len(text)
			if i+1 < len(marks) {
				end = marks[i+1][0]
			}
			name := text[m[2]:m[3]]
			if _, twice := out[name]; twice {
				return nil, fmt.Errorf("db: two statements are named %s", name)
			}
			out[name] = strings.TrimSpace(text[m[1]:end])
		}
	}
	return out, nil
}
