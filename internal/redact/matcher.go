package redact

import (
	"cmp"
	"slices"
)

// maxHeld is how many bytes of a text a match that is not complete holds back. What
// has matched by then is taken for a hit, as far as it goes.
const maxHeld = 64 << 10

// A matcher finds the values of a set in a text.
type matcher struct {
	end    int64 // of the text that was read
	bytes  view
	plain  plain
	digits hexes
	hits   []*hit
}

// A hit is a value in the text.
type hit struct {
	pattern  *pattern
	from, to int64
	grows    bool // it may be longer
	named    bool // the Writer has written its name
}

// order puts the leftmost first, and of those the longest.
func order(hits []*hit) {
	slices.SortStableFunc(hits, func(a, b *hit) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to))
	})
}

func newMatcher() *matcher {
	m := &matcher{}
	m.bytes = view{m: m, width: 8, head: 8}
	m.plain.view = m.bytes
	m.digits.view = view{m: m, width: 4, head: 16}
	return m
}

// write reads on.
func (m *matcher) write(t *table, p []byte) {
	m.bytes.x, m.plain.x, m.digits.x = t.bytes, t.bytes, t.digits
	at := m.end
	m.end += int64(len(p))
	m.digits.write(p, at)
	for len(p) > 0 {
		n := m.bytes.lines(p, at)
		if m.plain.on {
			m.plain.write(p[:n], at)
		}
		p, at = p[n:], at+int64(n)
		if len(p) == 0 {
			return
		}
		seen := !beginsInvisible(p)
		if !m.plain.on && !seen {
			m.plain.begin(&m.bytes)
		}
		m.bytes.push(p[0], at)
		if m.plain.on {
			m.plain.byte(p[0], seen, at)
		}
		p, at = p[1:], at+1
	}
}

// undecided returns where a match may begin that is not in hits, or not to its end.
func (m *matcher) undecided() int64 {
	first := min(m.bytes.undecided(m.end), m.digits.undecided(m.end))
	if m.plain.on {
		first = min(first, m.plain.undecided(m.end))
	}
	return first
}

// begun returns how many bytes at the end of the text may be the begin of a value.
func (m *matcher) begun() (n int) {
	for _, v := range m.views() {
		if len(v.walks) > 0 || slices.ContainsFunc(v.active, func(c candidate) bool { return c.hit == nil }) {
			return minLength
		}
		n = max(n, v.begun(v.window, v.n)*v.width/8)
	}
	return n
}

func (m *matcher) views() []*view {
	views := []*view{&m.bytes, &m.digits.view, &m.plain.view}
	if !m.plain.on {
		return views[:2]
	}
	return views
}

// finish ends the text. What has matched of a value that was cut off is a hit.
func (m *matcher) finish() {
	m.digits.take()
	for _, v := range m.views() {
		for i := range v.active {
			if c := &v.active[i]; c.hit == nil {
				m.found(c.pattern, v.from(c.k), m.end)
			}
		}
		for _, w := range v.walks {
			m.found(w.family.patterns[w.low], v.from(w.k), m.end)
		}
	}
}

func (m *matcher) found(p *pattern, from, to int64) *hit {
	return m.add(&hit{pattern: p, from: from, to: to})
}

func (m *matcher) add(h *hit) *hit {
	m.hits = append(m.hits, h)
	return h
}
