package redact

import (
	"bytes"
	"cmp"
	"slices"
	"sort"
)

// maxLead is how many symbols of the patterns of one head are read as one before each is compared by itself.
const maxLead = 128

// A family is the patterns of one head. Keys of one kind begin alike, and so do the encodings
// of one key: read as one, they cost what one costs until a symbol tells them apart.
type family struct {
	patterns []*pattern // ordered by begin
	begins   [][]byte   // maxLead symbols, or all
}

// family returns that of the patterns that were found for a head.
func (x *index) family(head uint64, found []*pattern) *family {
	if f, ok := x.families.Load(head); ok {
		return f.(*family)
	}
	order := make([]int, len(found))
	begins, size := make([][]byte, len(found)), 0
	for i, p := range found {
		begin, _ := p.codec.begin(p.part, maxLead)
		order[i], begins[i] = i, bytes.Clone(begin[:min(len(begin), maxLead)])
		size += 64 + len(begins[i])
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(bytes.Compare(begins[a], begins[b]), cmp.Compare(a, b)) })
	f := &family{}
	for _, i := range order {
		f.patterns, f.begins = append(f.patterns, found[i]), append(f.begins, begins[i])
	}
	x.families.Store(head, f)
	found[0].set.keep(size)
	return f
}

// A walk is those of a family of which the last k symbols are the begin.
type walk struct {
	family       *family
	low, high, k int
}

// next keeps those that go on with symbol. It returns whether there are any.
func (w *walk) next(symbol byte) bool {
	begins, k := w.family.begins[w.low:w.high], w.k
	if first, last := begins[0][k], begins[len(begins)-1][k]; first != symbol || last != symbol {
		from := sort.Search(len(begins), func(i int) bool { return begins[i][k] >= symbol })
		to := from + sort.Search(len(begins)-from, func(i int) bool { return begins[from+i][k] > symbol })
		w.low, w.high = w.low+from, w.low+to
	}
	w.k++
	return w.low < w.high
}
