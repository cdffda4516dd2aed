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
	walks  []walk
	active []candidate
	marks  []mark // while it is busy
	trim   int    // how many marks to have before some are dropped
}

// A candidate is a pattern of which the last k symbols are the begin.
type candidate struct {
	pattern *pattern
	text    *text
	k, lead int  // with less than its lead it is met again
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
	if v.busy() {
		v.mark(v.n-1, at)
		v.advance(symbol, at+1)
		v.walk(symbol, at+1)
	}
	if v.n >= v.head && v.x.may(v.window) {
		v.open(at + 1)
	}
}

// busy reports whether the last symbols may be the begin of a match.
func (v *view) busy() bool { return len(v.active)+len(v.walks) > 0 }

// open begins what the head that ends here may be the head of.
func (v *view) open(end int64) {
	found := v.x.find(v.window)
	if len(found) == 0 {
		return
	}
	if !v.busy() {
		v.marks, v.trim = v.marks[:0], 1<<10
		for n := v.n - v.head; n < v.n; n++ {
			v.mark(n, v.at[n&15])
		}
	}
	if len(found) == 1 {
		v.candidate(found[0], v.head, end)
		return
	}
	f := v.x.family(v.window, found)
	w := walk{family: f, high: len(f.patterns), k: v.head}
	if v.settle(&w, end) {
		v.walks = append(v.walks, w)
	}
}

// walk goes on with a symbol in each family.
func (v *view) walk(symbol byte, end int64) {
	kept := v.walks[:0]
	for _, w := range v.walks {
		if !w.next(symbol) {
			continue
		}
		if w.high-w.low == 1 {
			v.candidate(w.family.patterns[w.low], w.k, end)
		} else if v.settle(&w, end) {
			kept = append(kept, w)
		}
	}
	clear(v.walks[len(kept):])
	v.walks = kept
}

// settle begins candidates for those that end here, or that nothing tells apart. It returns whether others are left.
func (v *view) settle(w *walk, end int64) bool {
	for w.low < w.high && len(w.family.begins[w.low]) == w.k {
		v.candidate(w.family.patterns[w.low], w.k, end)
		w.low++
	}
	return w.low < w.high
}

// candidate begins a candidate for a pattern whose first symbols are the last k.
func (v *view) candidate(p *pattern, k int, end int64) {
	for i := range v.active {
		if v.active[i].pattern == p {
			return // it will fall back to this begin
		}
	}
	c := candidate{pattern: p, text: p.expand(k), k: k, lead: k}
	if v.keeps(&c, end) {
		v.active = append(v.active, c)
	}
}

// advance compares each candidate with a symbol. The text up to end was read.
func (v *view) advance(symbol byte, end int64) {
	kept := v.active[:0]
	for _, c := range v.active {
		for c.k >= c.lead && c.text.symbols[c.k] != symbol {
			c.fallBack()
		}
		if c.k < c.lead {
			continue // its lead is met again
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
	if !c.text.whole {
		if c.text = c.pattern.expand(c.k); c.k < len(c.text.symbols) {
			return true
		}
	}
	if c.hit == nil {
		v.m.found(c.pattern, v.from(c.k), end)
	}
	c.fallBack()
	return c.k >= c.lead
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
		for i := range v.walks {
			first = min(first, v.n-v.walks[i].k-1)
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

// from returns where the last k symbols begin in the text.
func (v *view) from(k int) int64 {
	m := v.marks[v.marked(v.n-k)]
	return m.at + int64(v.n-k-m.symbol)
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
	clear(v.walks)
	v.active, v.walks = v.active[:0], v.walks[:0]
}

// undecided returns where in the text that was read up to end a match may begin that
// is not complete, or end. What is held longer than maxHeld is decided: it is a hit.
func (v *view) undecided(end int64) int64 {
	first := end
	for i := range v.walks {
		if from := v.from(v.walks[i].k); end-from <= maxHeld {
			first = min(first, from)
		} else { // it goes on as any of them
			v.candidate(v.walks[i].family.patterns[v.walks[i].low], v.walks[i].k, end)
		}
	}
	for i := range v.active {
		c := &v.active[i]
		if c.hit != nil {
			continue
		}
		from := v.from(c.k)
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
