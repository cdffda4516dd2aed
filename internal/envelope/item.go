package envelope

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// An Item is one secret. All but its value is readable on the way.
type Item struct {
	Name    string // of the environment variable
	Store   string // where it was fetched from
	Version string // of the value

	Guest    bool     // the step's own function may have it
	Commands []string // that may have it: names of programs of the image, or paths
	File     bool     // the variable holds the path of a file with the value
	Strict   bool     // when it lapses what uses it is killed at once
	Wrapped  bool     // Value is one of package wrapped, by which the sandbox has the value

	Value []byte
}

// Knob is the Store of what is no secret: a setting, which may be seen.
const Knob = "knob"

// What else an item can be whose Store is no store.
const (
	Placeholder = "placeholder" // a word that the broker puts a secret in the place of, in requests
	Authority   = "authority"   // the certificate, in PEM, that programs with a Placeholder trust the broker by
)

// Bounds of what an envelope holds.
const (
	MaxItems = 256
	MaxValue = 64 << 10

	maxName     = 4 << 10
	maxCommands = 64
)

// Check reports what keeps an item from being delivered.
func (i Item) Check() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: secret %.150q: %s", ErrMalformed, i.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case i.Name == "" || len(i.Name) > 128 || strings.ContainsAny(i.Name, "=\x00") || !utf8.ValidString(i.Name):
		return refuse("it cannot be the name of a variable")
	case strings.HasPrefix(i.Name, "STEPWARD_"):
		return refuse("variables of the sandbox have such names")
	case len(i.Store) > maxName || len(i.Version) > maxName:
		return refuse("the name of its store or version has over %d bytes", maxName)
	case len(i.Commands) > maxCommands:
		return refuse("it has over %d commands", maxCommands)
	case len(i.Value) > MaxValue:
		return refuse("the value has over %d bytes", MaxValue)
	case !i.File && bytes.IndexByte(i.Value, 0) >= 0:
		return refuse("the value has a byte of zero and must be a file")
	}
	for _, c := range i.Commands {
		if c == "" || len(c) > maxName || strings.Contains(c, "/") && !strings.HasPrefix(c, "/") {
			return refuse("command %.150q is neither a name nor an absolute path", c)
		}
	}
	return nil
}

// label is what the value is sealed with.
func (i Item) label(seq, count int) []byte {
	w := &writer{}
	for _, s := range []string{i.Name, i.Store, i.Version} {
		w.bytes([]byte(s))
	}
	for _, b := range []bool{i.Guest, i.File, i.Strict, i.Wrapped} {
		w.bool(b)
	}
	w.u32(len(i.Commands))
	for _, c := range i.Commands {
		w.bytes([]byte(c))
	}
	w.u32(seq)
	w.u32(count)
	return w.b
}

func readLabel(raw []byte, seq, count int) (i Item, err error) {
	r := &reader{b: raw}
	for _, s := range []*string{&i.Name, &i.Store, &i.Version} {
		*s = string(r.bytes(maxName))
	}
	for _, b := range []*bool{&i.Guest, &i.File, &i.Strict, &i.Wrapped} {
		*b = r.bool()
	}
	for range r.count(maxCommands) {
		i.Commands = append(i.Commands, string(r.bytes(maxName)))
	}
	if r.u32() != seq || r.u32() != count {
		r.failed = true
	}
	if err := r.end(); err != nil {
		return Item{}, err
	}
	return i, i.Check()
}

// step is what lengths of values are rounded up to.
const step = 256

// Pad returns a value with its length, as it is sealed.
func Pad(value []byte) []byte {
	out := make([]byte, (4+len(value)+step-1)/step*step)
	w := writer{b: out[:0]}
	w.bytes(value)
	return out
}

// Unpad returns the value in what Pad returned, which it shares memory with.
func Unpad(raw []byte) ([]byte, error) {
	r := &reader{b: raw}
	value := r.bytes(MaxValue)
	if r.failed || len(r.b) >= step || len(raw)%step != 0 || len(bytes.Trim(r.b, "\x00")) > 0 {
		return nil, ErrSealed
	}
	return value, nil
}
