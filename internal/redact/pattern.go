package redact

import (
	"encoding/binary"
	"strings"
	"sync/atomic"
)

// maxExpanded is how many bytes of patterns stay in memory between their uses.
const maxExpanded = 8 << 20

// A pattern is one part of a value in one encoding. Its text is made when its head
// is first met: a large value has a hundred encodings, most of which nobody prints.
type pattern struct {
	set         *Set
	name, class string
	part        string
	encode      func(part string) []byte
	head        uint64 // the first 64 bits of the text
	text        atomic.Pointer[text]
}

// A text is the symbols of a pattern: bytes, or the values of hexadecimal digits.
type text struct {
	symbols []byte
	border  []int32 // for each length, that of the longest proper begin that is also its end
}

// expand returns the text.
func (p *pattern) expand() *text {
	if t := p.text.Load(); t != nil {
		return t
	}
	t := &text{symbols: p.encode(p.part)}
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
	if size := int64(5 * len(t.symbols)); p.text.CompareAndSwap(nil, t) && p.set.expanded.Add(size) > maxExpanded {
		p.set.forget()
	}
	return t
}

// forget drops all texts. Who is comparing with one keeps it.
func (s *Set) forget() {
	s.expanded.Store(0)
	for _, x := range []*index{s.table.Load().bytes, s.table.Load().digits} {
		for _, p := range x.patterns {
			p.text.Store(nil)
		}
	}
}

// digitClass is that of what is found in the view of digits.
const digitClass = "hex"

// patterns returns what stands for a value: in the views of bytes, and in that of digits.
func patterns(s *Set, name, value string) (all, digits []*pattern) {
	for _, part := range parts(value) {
		seen := map[string]bool{}
		for _, c := range codecs() {
			symbols := c.encode(part)
			if len(symbols) < minLength || seen[string(symbols)] {
				continue
			}
			seen[string(symbols)] = true
			all = append(all, &pattern{set: s, name: name, class: c.class, part: part, encode: c.encode,
				head: binary.BigEndian.Uint64(symbols)})
		}
		// A value that ends with a line break is often printed without it.
		if inner := strings.Trim(part, "\r\n"); len(inner) >= minLength {
			digits = append(digits, &pattern{set: s, name: name, class: digitClass, part: inner, encode: nibbles,
				head: binary.BigEndian.Uint64([]byte(inner))})
		}
	}
	return all, digits
}
