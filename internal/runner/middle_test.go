package runner

import (
	"bytes"
	"testing"
)

// Of a stream of any length, written in parts of any length, the first and last
// bytes are kept, and the gap between them is exact.
func TestMiddleless(t *testing.T) {
	all := make([]byte, 5000)
	for i := range all {
		all[i] = byte(i*7 + i/256)
	}
	for _, most := range []int64{2, 7, 100, 1024} {
		for _, size := range []int{0, 1, 49, 50, 51, 99, 100, 101, 150, 1023, 1024, 5000} {
			for _, part := range []int{1, 3, 50, 64, 333, 5000} {
				l := &outlog{wake: new(broadcast), middle: &middleless{most: most}}
				for rest := all[:size]; len(rest) > 0; {
					n := min(part, len(rest))
					if !l.write(rest[:n]) {
						t.Fatal("a write was refused")
					}
					rest = rest[n:]
				}
				half := int(most / 2)
				if got, at, over := l.read(0, 1<<20); over || at != 0 || !bytes.Equal(got, all[:min(size, half)]) {
					t.Fatalf("%d of %d by %d: while it runs %d bytes at %d, over %v", most, size, part, len(got), at, over)
				}
				if _, at, over := l.read(int64(half), 1<<20); over || at > int64(half) {
					t.Fatalf("%d of %d by %d: bytes of the end while it runs", most, size, part)
				}
				l.close()
				var got []byte
				var offset, lost int64
				for {
					data, at, over := l.read(offset, 40)
					lost += at - offset
					if offset = at + int64(len(data)); over {
						break
					}
					got = append(got, data...)
				}
				want := all[:size]
				if gap := size - 2*half; gap > 0 {
					want = append(bytes.Clone(all[:half]), all[size-half:size]...)
				}
				if !bytes.Equal(got, want) || offset != int64(size) || lost != int64(size-len(want)) {
					t.Fatalf("%d of %d by %d: %d bytes, %d lost, to %d", most, size, part, len(got), lost, offset)
				}
				if l.size() > 2*int(most) {
					t.Errorf("%d of %d: it holds %d bytes", most, size, l.size())
				}
			}
		}
	}
}
