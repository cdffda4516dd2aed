package redact

import (
	"slices"
	"strings"
)

// What a byte is to the views of bytes.
const (
	ordinary  = iota
	lineBreak // left out of both
	invisible // may begin what is left out of plain
)

var kinds = [256]uint8{'\n': lineBreak, '\r': lineBreak, 0x1b: invisible, 0xc2: invisible, 0xe2: invisible, 0xef: invisible}

// noWidth are the characters that nobody sees.
var noWidth = []string{"\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u2060", "\ufeff", "\u00ad"}

// beginsInvisible reports whether p may begin with what plain leaves out.
func beginsInvisible(p []byte) bool {
	if p[0] == 0x1b {
		return true
	}
	for _, c := range noWidth {
		n := min(len(c), len(p))
		if c[:n] == string(p[:n]) {
			return true
		}
	}
	return false
}

// lines reads p up to a byte that is invisible, and returns how much that is.
func (v *view) lines(p []byte, at int64) int {
	for i := 0; i < len(p); {
		if v.busy() {
			switch kinds[p[i]] {
			case invisible:
				return i
			case ordinary:
				v.push(p[i], at+int64(i))
			}
			i++
			continue
		}
		// What push does when it is not busy: nearly always.
		window, n, x := v.window, v.n, v.x
		for ; i < len(p); i++ {
			b := p[i]
			if k := kinds[b]; k != ordinary {
				if k == lineBreak {
					continue
				}
				break
			}
			window = window<<8 | uint64(b)
			v.at[n&15] = at + int64(i)
			n++
			if x.may(window) && n >= v.head {
				v.window, v.n = window, n
				v.open(at + int64(i) + 1)
				if v.busy() {
					i++
					break
				}
			}
		}
		v.window, v.n = window, n
		if i < len(p) && kinds[p[i]] == invisible && !v.busy() {
			return i
		}
	}
	return len(p)
}

// A plain reads text as a person sees it: no colours, no characters without width.
// While there are none it is off, since it reads what lines reads.
type plain struct {
	view
	terminal
	on    bool
	since int    // symbols since something was left out
	begun string // of a character without width
}

// begin goes on where lines is.
func (v *plain) begin(from *view) {
	v.on, v.since, v.terminal, v.begun = true, 0, terminal{}, ""
	v.view = *from
	v.active, v.walks, v.marks = slices.Clone(from.active), slices.Clone(from.walks), slices.Clone(from.marks)
	for i := range v.active {
		if c := &v.active[i]; c.hit != nil {
			h := *c.hit
			c.hit = v.m.add(&h)
		}
	}
}

// write reads bytes that are not invisible.
func (v *plain) write(p []byte, at int64) {
	for i := 0; i < len(p) && v.on; {
		switch {
		case v.begun != "" || v.busy():
			v.byte(p[i], true, at+int64(i))
			i++
		case v.state != visible:
			i += v.follow(p[i:])
		default:
			i += v.seen(p[i:], at+int64(i))
		}
	}
}

// seen is what byte does with bytes that are seen while it is not busy. It returns how many it has read.
func (v *plain) seen(p []byte, at int64) int {
	window, n, since, x := v.window, v.n, v.since, v.x
	i := 0
	for i < len(p) && since < v.head {
		b := p[i]
		i++
		if kinds[b] == lineBreak {
			continue
		}
		window = window<<8 | uint64(b)
		v.at[n&15] = at + int64(i) - 1
		n++
		since++
		if x.may(window) && n >= v.head {
			v.window, v.n = window, n
			v.open(at + int64(i))
			if v.busy() {
				break
			}
		}
	}
	v.window, v.n, v.since = window, n, since
	v.on = since < v.head || v.busy()
	return i
}

// byte reads one. If it is not seen, it may begin what is left out.
func (v *plain) byte(b byte, seen bool, at int64) {
	switch {
	case v.begun != "" || !seen && b != 0x1b:
		v.character(b, at)
	case v.takes(b):
		v.since = 0
	case kinds[b] != lineBreak:
		v.push(b, at)
		v.since++
	}
	v.on = v.since < v.head || v.busy() || v.begun != ""
}

// character reads what may be a character without width.
func (v *plain) character(b byte, at int64) {
	v.begun += string([]byte{b})
	for v.begun != "" {
		for _, c := range noWidth {
			if c == v.begun {
				v.begun, v.since = "", 0
				return
			}
			if strings.HasPrefix(c, v.begun) {
				return
			}
		}
		first, from := v.begun[0], at+1-int64(len(v.begun))
		v.begun = v.begun[1:]
		switch {
		case v.takes(first):
			v.since = 0
		case kinds[first] != lineBreak:
			v.push(first, from)
			v.since++
		}
	}
}
