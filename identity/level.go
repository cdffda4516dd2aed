package identity

import "fmt"

// A Level says how far a secret is kept from everything but the sandbox that
// it is for. Levels are ordered.
type Level int

// The levels. L1Dev contains accidents: a core dump, a log, a panic, a copy of the
// database. A worker that is hostile could still put its own key in the place of that
// of its runs' sandboxes, up to and with L1.
const (
	L0    Level = iota // nothing is promised
	L1Dev              // the worker relays what it cannot open; its user could read what is the broker's
	L1                 // the broker runs under another user, whose files the worker cannot read, or on another host
	L2                 // the sandbox's key is attested by what the worker cannot forge
	L3                 // the secret never enters the sandbox
)

var levelNames = [...]string{"L0", "L1-dev", "L1", "L2", "L3"}

// String returns the level as rows and events have it.
func (l Level) String() string {
	if l < 0 || int(l) >= len(levelNames) {
		return fmt.Sprintf("level(%d)", int(l))
	}
	return levelNames[l]
}

// MarshalText implements [encoding.TextMarshaler].
func (l Level) MarshalText() ([]byte, error) {
	if l < 0 || int(l) >= len(levelNames) {
		return nil, fmt.Errorf("identity: no such level: %v", l)
	}
	return []byte(l.String()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (l *Level) UnmarshalText(text []byte) error {
	for i, name := range levelNames {
		if name == string(text) {
			*l = Level(i)
			return nil
		}
	}
	return fmt.Errorf("identity: no such level: %q", text)
}
