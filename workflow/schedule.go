package workflow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/payload"
	"github.com/stepward/stepward/internal/schedule"
	"github.com/stepward/stepward/internal/tick"
)

// ScheduleOptions configures [DurableWorkflow.Schedule]. Name is required, and
// one of Cron and Every.
type ScheduleOptions struct {
	// Name identifies the schedule. 1 to 100 of letters, digits and "_-./".
	Name string

	// These are of the runs, as in [EnqueueOptions]. A Timeout begins when a run
	// is enqueued.
	Tenant      string
	Priority    int
	Attributes  map[string]any
	Timeout     time.Duration
	Limit       Limit
	Project     string
	Environment string

	// Cron has five fields: minute, hour, day of month, month and day of week
	// (0 is Sunday); or it is "@daily" or the like.
	//
	// A cron that names every hour ticks whenever the clock shows one of its
	// minutes. Any other ticks once for each of its times of day also when the
	// clock is changed: one that is left out, at the moment of the change, and
	// one that comes twice, the first time.
	Cron string

	// Location is the time zone of Cron, such as "Europe/Berlin". Defaults to
	// "UTC".
	Location string

	// Every ticks at the multiples of itself, counted from 1970 in UTC. Whole
	// seconds.
	Every time.Duration

	// Jitter delays each tick by up to so much, so that schedules of the same
	// time do not start together. The delay of a tick is always the same.
	Jitter time.Duration

	// Overlap says what happens at a tick while a run of an earlier tick has
	// not ended: "skip" leaves the tick out, "buffer" lets one tick wait for
	// the end (and leaves out those that come meanwhile), "cancel" cancels what
	// runs and lets the newest tick wait for its end, "allow" starts another run
	// at once. Defaults to "skip".
	Overlap string

	// CatchUp is how late a tick may be enqueued when no worker was there at
	// its time. What is older is left out and counted. Defaults to 24 hours; at
	// least 10 seconds.
	CatchUp time.Duration
}

// A Schedule is a handle of a schedule. See [DurableWorkflow.Schedule].
type Schedule struct {
	Name   string
	client *Client
}

// A ScheduleStatus is a schedule as a query sees it.
type ScheduleStatus struct {
	ScheduleOptions // with their defaults
	Workflow        string
	Input           []byte // JSON; empty when Problem says why it cannot be read
	Paused          bool
	Next            time.Time // the next tick; zero when paused, or when there is none
	Waiting         time.Time // a tick that waits because of Overlap
	LastTick        time.Time // that a run was added for
	LastRun         RunID
	Skipped         int64  // ticks left out because of Overlap
	Missed          int64  // ticks left out because of CatchUp
	Problem         string // why nothing is enqueued although it is due; it is tried again every second
}

// Schedule enqueues runs of the workflow with this input at the times that o
// says. A schedule of that name is changed; with the same options that is no
// change, so a program may call it at each start. When it returns, the schedule
// is durable, and any worker, of whichever workflows, enqueues its runs.
//
// Each tick is enqueued once, or left out and counted, whatever happens to
// workers. A body reads its tick from [Info]. The input, the workflow and
// what else is said of the runs may be changed as well; its times apply from now on, once
// the ticks of the earlier ones are enqueued. A schedule that is paused stays so.
// An input is limited to 64 KiB.
//
// The error is an *[OptionError], a *[DefinitionError] or a *[ValueError]
// when something is wrong with what is passed.
func (w DurableWorkflow[In, Out]) Schedule(ctx context.Context, c *Client, in In, o ScheduleOptions) (Schedule, error) {
	s := Schedule{Name: o.Name, client: c}
	if err := w.plain(); err != nil {
		return s, err
	}
	if !validName.MatchString(w.Name) {
		return s, &DefinitionError{Workflow: w.Name, Reason: "bad name: " + nameRule}
	}
	if !validName.MatchString(o.Name) {
		return s, &OptionError{Option: "ScheduleOptions.Name", Reason: "bad name: " + nameRule}
	}
	if err := checkText("ScheduleOptions.Tenant", o.Tenant); err != nil {
		return s, err
	}
	spec := schedule.Spec{Cron: o.Cron, Location: o.Location, Every: o.Every, Jitter: o.Jitter, CatchUp: o.CatchUp, Overlap: o.Overlap}.Normal()
	table, err := schedule.Parse(spec)
	var field *schedule.FieldError
	if errors.As(err, &field) {
		return s, &OptionError{Option: "ScheduleOptions." + field.Field, Reason: field.Reason}
	}
	runs, err := EnqueueOptions{Priority: o.Priority, Attributes: o.Attributes, Timeout: o.Timeout, Limit: o.Limit, Project: o.Project, Environment: o.Environment}.encode("ScheduleOptions")
	if err != nil {
		return s, err
	}
	what := "input of schedule " + o.Name
	input, err := encode(what, in, min(c.maxBytes, payload.Inline))
	if err == nil {
		input, err = c.sealSchedule(ctx, what, o.Name, input)
	}
	if err != nil {
		return s, err
	}
	for again := true; again && err == nil; {
		err = pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
			again, err = c.putSchedule(ctx, tx, table, o.Name, o.Tenant, w.Name, input, runs)
			return err
		})
	}
	if err != nil {
		return s, fmt.Errorf("workflow: schedule %s: %w", o.Name, c.explain(ctx, err))
	}
	return s, nil
}

// sealSchedule returns what is stored for the input of a schedule: what is stored
// already, when that is the same, as a codec may give other bytes each time.
func (c *Client) sealSchedule(ctx context.Context, what, name string, input []byte) ([]byte, error) {
	if c.box.Plain(input) {
		return input, nil
	}
	before, err := c.schedules(ctx, &name)
	if err == nil && len(before) > 0 {
		if v, err := c.box.Open(ctx, before[0].Input); err == nil && bytes.Equal(v, input) {
			return before[0].Input, nil
		}
	}
	if err == nil {
		input, err = c.box.SealInline(ctx, input)
	}
	if err != nil {
		return nil, fmt.Errorf("workflow: store %s: %w", what, err)
	}
	return input, nil
}

// putSchedule writes a schedule. Before other times apply, it does what was due
// already, one transaction at a time.
func (c *Client) putSchedule(ctx context.Context, tx pgx.Tx, t *schedule.Timetable, name, tenant, workflow string, input []byte, runs enqueue.Options) (again bool, err error) {
	spec, err := json.Marshal(t.Spec)
	if err != nil {
		return false, err
	}
	row, exists, err := tick.Lock(ctx, tx, c.q, name)
	if err != nil {
		return false, err
	}
	var next, due *time.Time // none: they stay
	before, unknown := row.Timetable()
	switch {
	case exists && unknown == nil && before.Times() == t.Times():
	case exists && unknown == nil && !row.Paused && row.Tick != nil && !row.Tick.After(row.Now):
		row.Early = true
		done, results, err := tick.Run(ctx, tx, c.q, []tick.Row{row}, "client")
		if err == nil {
			err = c.announceAll(ctx, tx, results)
		}
		if err != nil || done[0].Problem == "" {
			return true, err
		}
	case !exists:
		if err := tx.QueryRow(ctx, c.q.ScheduleNow).Scan(&row.Now); err != nil {
			return false, err
		}
		fallthrough
	default:
		first, at := t.Start(name, row.Now)
		next, due = &first, &at
	}
	_, err = tx.Exec(ctx, c.q.SchedulePut, name, tenant, workflow, input, string(spec), next, due, runs)
	return false, err
}

// Schedule returns the handle of a schedule. It asks nothing: whether there is
// one shows when the handle is used.
func (c *Client) Schedule(name string) Schedule { return Schedule{name, c} }

// Schedules lists all schedules by name.
func (c *Client) Schedules(ctx context.Context) ([]ScheduleStatus, error) {
	found, err := c.schedules(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("workflow: list schedules: %w", c.explain(ctx, err))
	}
	for i := range found {
		c.openSchedule(ctx, &found[i])
	}
	return found, nil
}

// openSchedule makes the input what it was. One that cannot be opened hides no
// other schedule of a list.
func (c *Client) openSchedule(ctx context.Context, s *ScheduleStatus) {
	v, err := c.open(ctx, "input of schedule "+s.Name, s.Input)
	if s.Input = v; err != nil && s.Problem == "" {
		s.Problem = err.Error()
	}
}

// schedules reads schedules, with their inputs as they are stored.
func (c *Client) schedules(ctx context.Context, name *string) ([]ScheduleStatus, error) {
	rows, err := c.pool.Query(ctx, c.q.ScheduleList, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s ScheduleStatus, err error) {
		var text string
		var next, waiting, last *time.Time
		var run *int64
		var runs enqueue.Options
		err = row.Scan(&s.Name, &s.Tenant, &s.Workflow, &s.Input, &text, &s.Paused, &next, &waiting, &last, &run, &s.Skipped, &s.Missed, &s.Problem, &runs)
		if err != nil {
			return s, err
		}
		var spec schedule.Spec
		if err := json.Unmarshal([]byte(text), &spec); err != nil {
			s.Problem = err.Error()
		}
		s.Cron, s.Location, s.Every, s.Jitter, s.Overlap, s.CatchUp = spec.Cron, spec.Location, spec.Every, spec.Jitter, spec.Overlap, spec.CatchUp
		s.Priority, s.Timeout = int(runs.Priority), runs.Timeout
		s.Limit = Limit{Key: runs.Limit.Key, Concurrency: runs.Limit.Concurrency, Rate: runs.Limit.Rate, Per: runs.Limit.Per}
		s.Project, s.Environment = runs.Identity.Project, runs.Identity.Environment
		for _, a := range runs.Attributes {
			if s.Attributes == nil {
				s.Attributes = make(map[string]any, len(runs.Attributes))
			}
			s.Attributes[a.Name] = engine.DecodeAttribute(a.Value)
		}
		s.Next, s.Waiting, s.LastTick = utc(next), utc(waiting), utc(last)
		if run != nil {
			s.LastRun = RunID(*run)
		}
		return s, nil
	})
}

func utc(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// Status returns how the schedule stands, or [ErrNotFound].
func (s Schedule) Status(ctx context.Context) (ScheduleStatus, error) {
	if s.client == nil || !validName.MatchString(s.Name) {
		return ScheduleStatus{}, s.missing()
	}
	found, err := s.client.schedules(ctx, &s.Name)
	if err == nil && len(found) == 0 {
		return ScheduleStatus{}, s.missing()
	}
	if err != nil {
		return ScheduleStatus{}, fmt.Errorf("workflow: get schedule %s: %w", s.Name, s.client.explain(ctx, err))
	}
	s.client.openSchedule(ctx, &found[0])
	return found[0], nil
}

func (s Schedule) missing() error { return fmt.Errorf("%w: schedule %q", ErrNotFound, s.Name) }
