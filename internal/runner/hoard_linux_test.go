package runner

import (
	"bytes"
	"testing"
)

// Output that can be left out is bounded over all commands: of the largest the middle goes first, and how much is exact,
// for those that have ended and those that go on.
func TestHoard(t *testing.T) {
	x := &execs{byID: map[string]*exec{}}
	x.hoard = hoard{most: 1000, squeeze: x.squeeze}
	add := func(id string, most int64) *outlog {
		e := newExec(nil)
		l := &e.out[1]
		if l.hoard = &x.hoard; most > 0 {
			l.middle = &middleless{most: most}
		}
		x.byID[id] = e
		return l
	}
	written := map[*outlog][]byte{}
	write := func(l *outlog, n int) {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(len(written[l])+i*7+i/256) | 1
		}
		written[l] = append(written[l], p...)
		if !l.write(p) {
			t.Fatal("a write was refused")
		}
		if !x.hoard.fits() {
			t.Fatalf("%d bytes are kept", x.hoard.sum.Load())
		}
	}
	small, runs, ended, plain := add("small", 100), add("runs", 4000), add("ended", 1200), add("plain", 0)
	write(small, 60)
	write(runs, 900)
	write(plain, 700) // which has to be read while it runs
	write(ended, 5000)
	plain.close()
	ended.close()
	write(runs, 3)
	write(runs, 777)
	runs.close()
	small.close()
	for name, l := range map[string]*outlog{"small": small, "runs": runs, "ended": ended, "plain": plain} {
		var offset, got, lost int64
		for {
			data, at, over := l.read(offset, 40)
			if lost += at - offset; over {
				break
			}
			if !bytes.Equal(data, written[l][at:at+int64(len(data))]) {
				t.Fatalf("%s: other bytes at %d", name, at)
			}
			offset, got = at+int64(len(data)), got+int64(len(data))
		}
		if n := int64(len(written[l])); offset != n || got+lost != n || (lost > 0) != (l != small) {
			t.Errorf("%s: %d bytes and %d that are left out, of %d", name, got, lost, n)
		}
		l.drop()
	}
	if n := x.hoard.sum.Load(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
}
