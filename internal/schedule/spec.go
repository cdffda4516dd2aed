// Package schedule computes the ticks of schedules, and what to do when one is
// due. It is pure: it reads no clock and no database. Package tick does what it
// plans.
package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // a worker's image may have no zones of its own

	"github.com/robfig/cron/v3"
)

// A Spec says when a schedule ticks, as table schedule keeps it.
type Spec struct {
	Cron     string        `json:"cron,omitempty"`
	Location string        `json:"location,omitempty"`
	Every    time.Duration `json:"every,omitempty"`
	Jitter   time.Duration `json:"jitter,omitempty"`
	CatchUp  time.Duration `json:"catch_up"`
	Overlap  string        `json:"overlap"`
}

// The overlap policies.
const (
	Skip   = "skip"
	Buffer = "buffer"
	Allow  = "allow"
	Cancel = "cancel"
)

// Limits of a Spec.
const (
	everyMin       = time.Second
	catchUpMin     = 10 * time.Second
	catchUpDefault = 24 * time.Hour
	cronMax        = 200 // bytes
)

// A FieldError names the field of a Spec that cannot be used.
type FieldError struct{ Field, Reason string }

func (e *FieldError) Error() string { return "schedule: " + e.Field + ": " + e.Reason }

// Normal returns the Spec with its defaults.
func (s Spec) Normal() Spec {
	if s.CatchUp == 0 {
		s.CatchUp = catchUpDefault
	}
	if s.Overlap == "" {
		s.Overlap = Skip
	}
	if s.Cron != "" && s.Location == "" {
		s.Location = "UTC"
	}
	return s
}

// Times returns what of the Spec decides when it ticks.
func (s Spec) Times() Spec {
	return Spec{Cron: s.Cron, Location: s.Location, Every: s.Every, Jitter: s.Jitter}
}

// A Timetable is a Spec that can be asked.
type Timetable struct {
	Spec
	cron *cron.SpecSchedule // in UTC; nil: Every
	loc  *time.Location
}

// Parse checks a normal Spec. The error is a *FieldError.
func Parse(s Spec) (*Timetable, error) {
	t := &Timetable{Spec: s}
	bad := func(field, format string, args ...any) (*Timetable, error) {
		return nil, &FieldError{field, fmt.Sprintf(format, args...)}
	}
	switch {
	case s.Cron == "" && s.Every == 0:
		return bad("Cron", "it is empty, and so is Every: one of them says when")
	case s.Cron != "" && s.Every != 0:
		return bad("Every", "only one of Cron and Every can say when")
	case s.Cron == "" && s.Location != "":
		return bad("Location", "it is for Cron; Every counts from 1970 in UTC, wherever it is")
	case s.Cron == "" && (s.Every < everyMin || s.Every%time.Second != 0):
		return bad("Every", "%v: want whole seconds, one at least", s.Every)
	case s.CatchUp < catchUpMin:
		return bad("CatchUp", "%v: want %v at least, as no tick is enqueued at its very moment", s.CatchUp, catchUpMin)
	case s.Jitter < 0:
		return bad("Jitter", "%v is negative", s.Jitter)
	case s.Every > 0 && s.Jitter > s.Every:
		return bad("Jitter", "%v is longer than Every, %v", s.Jitter, s.Every)
	}
	switch s.Overlap {
	case Skip, Buffer, Allow, Cancel:
	default:
		return bad("Overlap", "%q: want %s, %s, %s or %s", s.Overlap, Skip, Buffer, Allow, Cancel)
	}
	if s.Cron == "" {
		return t, nil
	}
	var err error
	if t.loc, err = time.LoadLocation(s.Location); err != nil || s.Location == "Local" {
		return bad("Location", "%q: want a name like Europe/Berlin, the same on every machine", s.Location)
	}
	if t.cron, err = parseCron(s.Cron); err != nil {
		return bad("Cron", "%q: %v", s.Cron, err)
	}
	if t.cron.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return bad("Cron", "%q never comes: no month has that day", s.Cron)
	}
	return t, nil
}

func parseCron(text string) (*cron.SpecSchedule, error) {
	switch {
	case len(text) > cronMax:
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(text), cronMax)
	case strings.Contains(text, "TZ="):
		return nil, errors.New("the time zone belongs into Location")
	case strings.HasPrefix(text, "@every"):
		return nil, errors.New("an interval belongs into Every")
	}
	parsed, err := cron.ParseStandard(text)
	if err != nil {
		return nil, fmt.Errorf("%w; want minute, hour, day of month, month, day of week, or @daily and the like", err)
	}
	s := parsed.(*cron.SpecSchedule) // it makes another type of @every only
	s.Location = time.UTC
	return s, nil
}
