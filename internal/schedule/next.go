package schedule

import (
	"hash/fnv"
	"strconv"
	"time"
)

// Next returns the first tick after a time; zero when there is none in the next
// five years.
//
// A cron that names every hour ticks whenever the clock shows one of its
// minutes: it neither pauses nor hurries while the clock is changed. Any other
// ticks once for each of its times of day: when a change of the clock leaves that
// out, at the moment of the change, and when it comes twice, the first time.
func (t *Timetable) Next(after time.Time) time.Time {
	switch {
	case t.cron == nil:
		every := int64(t.Every / time.Second)
		n := after.Unix() / every
		if after.Unix() < 0 && after.Unix()%every != 0 {
			n--
		}
		return time.Unix((n+1)*every, 0).UTC()
	case t.everyHour():
		return t.nextShown(after)
	default:
		return t.nextOfDay(after)
	}
}

func (t *Timetable) everyHour() bool {
	const hours = 1<<24 - 1
	return t.cron.Hour&hours == hours
}

// nextShown goes through the periods in which the clock is not changed.
func (t *Timetable) nextShown(after time.Time) time.Time {
	for {
		local := after.In(t.loc)
		_, end := local.ZoneBounds()
		wall := t.cron.Next(clockFace(local))
		if wall.IsZero() {
			return wall
		}
		_, offset := local.Zone()
		at := wall.Add(-time.Duration(offset) * time.Second)
		if end.IsZero() || at.Before(end) {
			return at
		}
		// The next period, its first moment included.
		if first := clockFace(end.In(t.loc)); t.cron.Next(first.Add(-time.Second)).Equal(first) {
			return end.UTC()
		}
		after = end
	}
}

// nextOfDay looks on the face of the clock, where no time is missing or comes
// twice.
func (t *Timetable) nextOfDay(after time.Time) time.Time {
	for wall := clockFace(after.In(t.loc)); ; {
		if wall = t.cron.Next(wall); wall.IsZero() {
			return wall
		}
		if at := t.instant(wall); at.After(after) {
			return at.UTC()
		}
	}
}

// clockFace returns what the clock shows at a time, as if it were UTC.
func clockFace(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// instant is when the clock shows a time first, or jumps over it.
func (t *Timetable) instant(wall time.Time) time.Time {
	at := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), t.loc)
	begin, end := at.ZoneBounds()
	switch shown := clockFace(at); {
	case shown.After(wall): // left out, and Date counted with the offset from before
		return begin
	case shown.Before(wall): // left out, and it counted with the offset from after
		return end
	}
	if begin.IsZero() {
		return at
	}
	_, before := begin.Add(-time.Nanosecond).Zone()
	_, now := at.Zone()
	if first := at.Add(time.Duration(now-before) * time.Second); before > now && first.Before(begin) {
		return first
	}
	return at
}

// Due returns when a tick is enqueued: at its time, or later by a jitter that
// is the same whoever asks.
func (t *Timetable) Due(name string, tick time.Time) time.Time {
	if t.Jitter == 0 {
		return tick
	}
	h := fnv.New64a()
	_, _ = h.Write(strconv.AppendInt([]byte(name+"@"), tick.Unix(), 10)) // never fails
	return tick.Add(time.Duration(mix(h.Sum64()) % uint64(t.Jitter))).Truncate(time.Microsecond)
}

// mix spreads the bits of a hash, as names and ticks differ in little.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// Key is the idempotency key of a tick.
func Key(name string, tick time.Time) string {
	return "schedule:" + name + ":" + tick.UTC().Format(time.RFC3339)
}
