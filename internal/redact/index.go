package redact

import (
	"cmp"
	"math/bits"
	"slices"
	"sync"
)

// An index finds the patterns that begin with a head.
type index struct {
	patterns []*pattern // ordered by head
	heads    []uint64   // theirs
	filter   []uint64   // a bit for the hash of each head
	shift    uint
	families sync.Map // from heads to *family
}

// with returns an index of its patterns and more. A nil one has none.
func (x *index) with(more []*pattern) *index {
	slices.SortStableFunc(more, func(a, b *pattern) int { return cmp.Compare(a.head, b.head) })
	if x == nil {
		return newIndex(more)
	}
	all := make([]*pattern, 0, len(x.patterns)+len(more))
	for _, p := range x.patterns {
		for len(more) > 0 && more[0].head < p.head {
			all, more = append(all, more[0]), more[1:]
		}
		all = append(all, p)
	}
	return newIndex(append(all, more...))
}

// newIndex returns an index of patterns that are in order.
func newIndex(patterns []*pattern) *index {
	// 64 bits for each head let one window in 64 pass that is none. Up to 2^18 bits stay in the cache next to the processor.
	size := min(max(bits.Len(uint(len(patterns)*64)), 12), 22)
	x := &index{patterns: patterns, filter: make([]uint64, 1<<(size-6)), shift: uint(64 - size)}
	x.heads = make([]uint64, 0, len(patterns))
	for _, p := range patterns {
		x.heads = append(x.heads, p.head)
		h := hash(p.head) >> x.shift
		x.filter[h>>6] |= 1 << (h & 63)
	}
	return x
}

func hash(window uint64) uint64 { return window * 0x9E3779B97F4A7C15 }

// may is false for almost every window that is no head.
func (x *index) may(window uint64) bool {
	h := hash(window) >> x.shift
	return x.filter[h>>6]&(1<<(h&63)) != 0
}

// find returns the patterns whose head is the window.
func (x *index) find(window uint64) []*pattern {
	i, found := slices.BinarySearch(x.heads, window)
	if !found {
		return nil
	}
	n := i + 1
	for n < len(x.heads) && x.heads[n] == window {
		n++
	}
	return x.patterns[i:n]
}

// begins reports whether a head begins with the last n bits of the window.
func (x *index) begins(window uint64, n int) bool {
	first := window << (64 - n)
	i, _ := slices.BinarySearch(x.heads, first)
	return i < len(x.heads) && (x.heads[i]^first)>>(64-n) == 0
}
