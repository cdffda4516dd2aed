package envelope

import (
	"encoding/binary"
)

// A writer appends to b.
type writer struct{ b []byte }

func (w *writer) raw(b []byte)   { w.b = append(w.b, b...) }
func (w *writer) u8(n byte)      { w.b = append(w.b, n) }
func (w *writer) u32(n int)      { w.b = binary.BigEndian.AppendUint32(w.b, uint32(n)) }
func (w *writer) u64(n uint64)   { w.b = binary.BigEndian.AppendUint64(w.b, n) }
func (w *writer) bytes(b []byte) { w.u32(len(b)); w.raw(b) }

func (w *writer) bool(b bool) {
	n := byte(0)
	if b {
		n = 1
	}
	w.u8(n)
}

// A reader takes from the front of b. After a failure all that it returns is zero.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n < 0 || n > len(r.b) {
		r.failed = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) bool() bool {
	n := r.u8()
	if n > 1 {
		r.failed = true
	}
	return n == 1
}

func (r *reader) u32() int {
	if b := r.take(4); b != nil {
		return int(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) fixed(into []byte) { copy(into, r.take(len(into))) }

// count reads a number of things.
func (r *reader) count(most int) int {
	n := r.u32()
	if n > most {
		r.failed = true
	}
	if r.failed {
		return 0
	}
	return n
}

// bytes reads what has its length in front.
func (r *reader) bytes(most int) []byte { return r.take(r.count(most)) }

// end reports a failure, or that something is left.
func (r *reader) end() error {
	if r.failed || len(r.b) > 0 {
		return ErrMalformed
	}
	return nil
}
