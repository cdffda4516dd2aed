package brokerlink

import (
	"strings"

	"github.com/stepward/stepward/internal/redact"
)

// saying passes on what a child writes, which ends in the worker's log, and in the reason of a run that is parked: in lines,
// without the password of the database, what addresses authenticate with, and whatever a panic is about. A
// line with what looks like somebody's token is kept back.
type saying struct {
	to        func(line string)
	set       redact.Set
	panicking bool // until its goroutines
}

func newSaying(setup Setup, to func(line string)) *saying {
	s := &saying{to: to}
	_ = s.set.Add("password", setup.Password, true) // the name is a good one
	return s
}

func (s *saying) line(text string) {
	if s.panicking && !strings.HasPrefix(text, "goroutine ") && !strings.HasPrefix(text, "[signal ") {
		return
	}
	s.panicking = strings.HasPrefix(text, "panic: ")
	if s.panicking {
		s.to("panic: what it is about is kept back")
		return
	}
	text, kinds := redact.Foreign(s.set.Redact(text))
	if len(kinds) > 0 {
		text = "what the broker says is kept back: it has " + strings.Join(kinds, ", ")
	}
	s.to(text)
}
