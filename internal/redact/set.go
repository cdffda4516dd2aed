package redact

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	minLength = 8  // bytes of the shortest value that is searched for
	minBits   = 24 // of entropy, likewise
)

// A Set holds secret values. Its zero value is empty and ready. All methods may
// be called at any time, by many goroutines, also while texts are being written.
type Set struct {
	table atomic.Pointer[table] // nil while there is nothing to search for

	mu     sync.Mutex
	added  map[[2]string]bool // names and values
	counts map[Count]int

	expanded atomic.Int64 // bytes of the patterns that are in memory
}

// A secret is a value that is searched for.
type secret struct {
	set         *Set
	name, value string
}

// A table is what is searched for, at one moment.
type table struct {
	bytes, digits *index
}

// A WeakError reports a value that cannot be redacted without redacting what is
// no secret: the words "test" and "true" stand in every log.
type WeakError struct {
	Name string
	Bits int // of entropy, about
}

func (e *WeakError) Error() string {
	return fmt.Sprintf("redact: the value of %s cannot be told from other text: it needs %d bytes and about %d bits of entropy, and has fewer",
		e.Name, minLength, minBits)
}

// A NameError reports a name that must not stand in a text.
type NameError struct{ Name string }

func (e *NameError) Error() string {
	return fmt.Sprintf("redact: name %q: want printable ASCII without spaces, quotes, brackets, &, < and >", e.Name)
}

// Add has the value searched for from now on, in every text whose next byte has
// not been written, until the set is dropped. Whoever hands out a value adds it
// first. A name may have several values, as it has when a key was rotated.
//
// A value that cannot be redacted is refused with a [*WeakError], and not
// searched for. With accept set, it is no error.
func (s *Set) Add(name, value string, accept bool) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("[]\"'`\\&<>", r)
	}) {
		return &NameError{name}
	}
	if Weak(value) {
		if accept {
			return nil
		}
		return &WeakError{name, int(entropy(strings.TrimSpace(value)))}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]string{name, value}
	if s.added[key] {
		return nil
	}
	if s.added == nil {
		s.added = map[[2]string]bool{}
	}
	s.added[key] = true
	bytes, hex := patterns(&secret{s, name, value})
	var t table
	if old := s.table.Load(); old != nil {
		t.bytes, t.digits = old.bytes, old.digits
	}
	s.table.Store(&table{t.bytes.with(bytes), t.digits.with(hex)})
	return nil
}

// A Count says how often a value was found, in one class of encodings.
type Count struct {
	Name  string
	Class string // raw, base64, json, …: see codec.go
	N     int
}

// Classes returns all that a [Count] may have.
func Classes() (all []string) {
	for _, c := range codecs() {
		all = append(all, c.class)
	}
	all = append(all, digitClass)
	slices.Sort(all)
	return slices.Compact(all)
}

// Counts returns what was found so far, by name and class.
func (s *Set) Counts() []Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	var counts []Count
	for c, n := range s.counts {
		counts = append(counts, Count{c.Name, c.Class, n})
	}
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Class, b.Class))
	})
	return counts
}

func (s *Set) count(p *pattern) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = map[Count]int{}
	}
	s.counts[Count{Name: p.name, Class: p.codec.class}]++
}

// Weak reports a value that [Set.Add] does not search for: it cannot be redacted.
func Weak(value string) bool { return weak(strings.TrimSpace(value)) }

func weak(value string) bool { return len(value) < minLength || entropy(value) < minBits }

// entropy estimates the bits in value from how often each of its bytes occurs.
// It is low for what is short, and so errs on the side of refusing.
func entropy(value string) (bits float64) {
	var count [256]int
	for i := range len(value) {
		count[value[i]]++
	}
	for _, n := range count {
		if n > 0 {
			bits -= float64(n) * math.Log2(float64(n)/float64(len(value)))
		}
	}
	return bits
}

// Empty reports whether there is nothing to search for.
func (s *Set) Empty() bool { return s.table.Load() == nil }
