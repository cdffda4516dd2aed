package redact

import (
	"maps"
	"slices"
)

// A Scanner finds values in what must not be rewritten. It takes all writes.
type Scanner struct {
	set   *Set
	m     *matcher
	names map[string]bool
	done  int64 // the end of the last hit that was counted
}

// Scanner returns a scanner.
func (s *Set) Scanner() *Scanner { return &Scanner{set: s} }

// Write reads on.
func (s *Scanner) Write(p []byte) (int, error) {
	t := s.set.table.Load()
	if t == nil {
		return len(p), nil
	}
	if s.m == nil {
		s.m = newMatcher()
	}
	s.m.write(t, p)
	s.m.undecided() // bounds what the matcher keeps
	s.take()
	return len(p), nil
}

// Names returns the names of the values that were found, in order. What was written
// last may be a part of one.
func (s *Scanner) Names() []string {
	if s.m != nil {
		s.m.digits.take()
		s.take()
	}
	return slices.Sorted(maps.Keys(s.names))
}

func (s *Scanner) take() {
	order(s.m.hits)
	for _, h := range s.m.hits {
		if !h.named && h.to > s.done {
			s.set.count(h.pattern)
			s.done = h.to
		}
		if !h.named {
			h.named = true
			if s.names == nil {
				s.names = map[string]bool{}
			}
			s.names[h.pattern.name] = true
		}
	}
	s.m.hits = slices.DeleteFunc(s.m.hits, func(h *hit) bool { return !h.grows })
}

// Find returns the names of the values in content, in order.
func (s *Set) Find(content []byte) []string {
	scanner := s.Scanner()
	_, _ = scanner.Write(content) // it takes all
	return scanner.Names()
}
