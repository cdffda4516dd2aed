package redact

// A view reads a text as symbols, and finds patterns in them.
type view struct {
	m      *matcher
	x      *index
	width  int // bits of a symbol
	head   int // symbols of a head
	window uint64
	n      int       // symbols since the view began
	at     [16]int64 // where the last of them stand in the text
	active []candidate
	marks  []mark // while there are candidates
	trim   int    // how many marks to have before some are dropped
}

// A candidate is a pattern of which the last k symbols are the begin.
type candidate struct {
	pattern *pattern
	text    *text
	k       int
	hit     *hit // it was given up to wait for the rest: what has matched is a hit
}

// A mark says where a symbol stands that does not stand right behind the one before.
type mark struct {
	symbol int
	at     int64
}

// push reads a symbol that stands at a byte of the text.
func (v *view) push(symbol byte, at int64) {
	v.window = v.window<<v.width | uint64(symbol)
	v.at[v.n&15] = at
	v.n++
	if len(v.active) > 0 {
		v.mark(v.n-1, at)
		v.advance(symbol, at+1)
	}
	if v.n >= v.head && v.x.may(v.window) {
		v.open(at + 1)
	}
}

// open begins candidates for the head that ends here.
func (v *view) open(end int64) {
patterns:
	for _, p := range v.x.find(v.window) {
		for i := range v.active {
			if v.active[i].pattern == p {
				continue patterns // it will fall back to this head
			}
		}
		if len(v.active) == 0 {
			v.marks, v.trim = v.marks[:0], 1<<10
			for n := v.n - v.head; n < v.n; n++ {
				v.mark(n, v.at[n&15])
			}
		}
		c := candidate{pattern: p, text: p.expand(), k: v.head}
		if v.keeps(&c, end) {
			v.active = append(v.active, c)
		}
	}
}

// advance compares each candidate with a symbol. The text up to end was read.
func (v *view) advance(symbol byte, end int64) {
	kept := v.active[:0]
	for _, c := range v.active {
		for c.k >= v.head && c.text.symbols[c.k] != symbol {
			c.fallBack()
		}
		if c.k < v.head {
			continue // open meets the head again
		}
		c.k++
		if c.hit != nil {
			c.hit.to = end
		}
		if v.keeps(&c, end) {
			kept = append(kept, c)
		}
	}
	clear(v.active[len(kept):])
	v.active = kept
}

// keeps makes a hit of a candidate that is complete. It returns whether one is left of it.
func (v *view) keeps(c *candidate, end int64) bool {
	if c.k < len(c.text.symbols) {
		return true
	}
	if c.hit == nil {
		v.m.found(c.pattern, v.from(c), end)
	}
	c.fallBack()
	return c.k >= v.head
}

// fallBack gives up the begin, for a later one that has matched as well.
func (c *candidate) fallBack() {
	c.k = int(c.text.border[c.k])
	if c.hit != nil {
		c.hit.grows, c.hit = false, nil
	}
}

func (v *view) mark(symbol int, at int64) {
	if n := len(v.marks); n > 0 && at == v.marks[n-1].at+int64(symbol-v.marks[n-1].symbol) {
		return
	}
	v.marks = append(v.marks, mark{symbol, at})
	if len(v.marks) > v.trim {
		first := v.n
		for i := range v.active {
			first = min(first, v.n-v.active[i].k-1)
		}
		v.marks = append(v.marks[:0], v.marks[v.marked(first):]...)
		v.trim = max(1<<10, 2*len(v.marks))
	}
}

// marked returns the index of the last mark that does not stand behind a symbol.
func (v *view) marked(symbol int) int {
	low, high := 0, len(v.marks)
	for high-low > 1 {
		if mid := (low + high) / 2; v.marks[mid].symbol <= symbol {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}

// from returns where a candidate begins in the text.
func (v *view) from(c *candidate) int64 {
	m := v.marks[v.marked(v.n-c.k)]
	return m.at + int64(v.n-c.k-m.symbol)
}

// cut ends the text for this view: what comes next has nothing to do with it.
func (v *view) cut() {
	v.n = 0
	for i := range v.active {
		if h := v.active[i].hit; h != nil {
			h.grows = false
		}
	}
	clear(v.active)
	v.active = v.active[:0]
}

// undecided returns where in the text that was read up to end a match may begin that
// is not complete, or end. What is held longer than maxHeld is decided: it is a hit.
func (v *view) undecided(end int64) int64 {
	first := end
	for i := range v.active {
		c := &v.active[i]
		if c.hit != nil {
			continue
		}
		from := v.from(c)
		if end-from > maxHeld {
			c.hit = v.m.found(c.pattern, from, end)
			c.hit.grows = true
			continue
		}
		first = min(first, from)
	}
	return min(first, v.prefix(end, v.window, v.n, func(n int) int64 { return v.at[n&15] }))
}

// prefix returns where the longest begin of a head stands that a window ends with, or end.
func (v *view) prefix(end int64, window uint64, n int, at func(n int) int64) int64 {
	if k := v.begun(window, n); k > 0 && end-at(n-k) <= maxHeld {
		return at(n - k)
	}
	return end
}

// begun returns how many symbols at the end of a window are the begin of a head.
func (v *view) begun(window uint64, n int) int {
	k := min(n, v.head-1)
	for k > 0 && !v.x.begins(window, k*v.width) {
		k--
	}
	return k
}
