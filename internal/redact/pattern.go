package redact

import (
	"encoding/binary"
	"strings"
	"sync/atomic"
)

// maxExpanded is how many bytes of patterns stay in memory between their uses.
const maxExpanded = 8 << 20

// A pattern is one part of a value in one encoding. Its text is made when its lead
// is first met: a large value has a hundred encodings, most of which nobody prints.
type pattern struct {
	*secret
	codec *codec
	part  string
	head  uint64 // the first 64 bits of the text
	text  atomic.Pointer[text]
}

// A text is the symbols of a pattern: bytes, or the values of hexadecimal digits.
type text struct {
	symbols []byte
	border  []int32 // for each length, that of the longest proper begin that is also its end
	whole   bool    // otherwise it is the begin of one
}

// firstText is how many symbols of a text are made at first.
const firstText = 1 << 10

// expand returns a text of more than k symbols, or the whole.
func (p *pattern) expand(k int) *text {
	old := p.text.Load()
	if old != nil && (old.whole || len(old.symbols) > k) {
		return old
	}
	t := &text{}
	if k < firstText {
		t.symbols, t.whole = p.codec.begin(p.part, firstText)
	} else {
		t.symbols, t.whole = p.codec.encode(p.part), true
	}
	t.border = make([]int32, len(t.symbols)+1)
	for i, k := 1, int32(0); i < len(t.symbols); i++ {
		for k > 0 && t.symbols[i] != t.symbols[k] {
			k = t.border[k]
		}
		if t.symbols[i] == t.symbols[k] {
			k++
		}
		t.border[i+1] = k
	}
	if p.text.CompareAndSwap(old, t) {
		p.set.keep(5 * len(t.symbols))
	}
	return t
}

// keep counts what was made of patterns, and drops all of it when it is too much.
func (s *Set) keep(size int) {
	if s.expanded.Add(int64(size)) > maxExpanded {
		s.forget()
	}
}

// forget drops all texts and families. Who is comparing with one keeps it.
func (s *Set) forget() {
	s.expanded.Store(0)
	for _, x := range []*index{s.table.Load().bytes, s.table.Load().digits} {
		x.families.Clear()
		for _, p := range x.patterns {
			p.text.Store(nil)
		}
	}
}

// digitClass is that of what is found in the view of digits.
const digitClass = "hex"

// patterns returns what stands for a value: in the views of bytes, and in that of digits.
func patterns(of *secret) (all, hex []*pattern) {
	for _, part := range parts(of.value) {
		seen, each := map[string]bool{}, each(part)
		for _, c := range codecs() {
			kind := c.kind(part, each)
			if kind == "" || seen[kind] {
				continue
			}
			if symbols, _ := c.begin(part, minLength); len(symbols) >= minLength {
				seen[kind] = true
				all = append(all, &pattern{secret: of, codec: c, part: part, head: binary.BigEndian.Uint64(symbols)})
			}
		}
		// A value that ends with a line break is often printed without it.
		if inner := strings.Trim(part, "\r\n"); len(inner) >= minLength {
			hex = append(hex, &pattern{secret: of, codec: digits, part: inner, head: binary.BigEndian.Uint64([]byte(inner))})
		}
	}
	return all, hex
}
