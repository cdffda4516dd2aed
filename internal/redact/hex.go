package redact

import "bytes"

// What a byte is to the view of digits. Less than 16 is the value of a digit.
const (
	between = 16 + iota // it may stand between digits
	foreign             // it ends a run of digits
	newLine             //
	ex                  // x of 0x41 and \x41
	blank               //
	colon               //
	bar                 //
)

var hexKinds = func() (kinds [256]uint8) {
	for b := range kinds {
		switch {
		case b >= '0' && b <= '9':
			kinds[b] = uint8(b - '0')
		case b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F':
			kinds[b] = uint8(b|0x20-'a') + 10
		default:
			kinds[b] = foreign
		}
	}
	for _, b := range "\r\t,;-\\%&#_" {
		kinds[b] = between
	}
	kinds['\n'], kinds['x'], kinds['X'], kinds[' '], kinds[':'], kinds['|'] = newLine, ex, ex, blank, colon, bar
	return kinds
}()

// A hexes reads the hexadecimal digits of a text, whatever stands between them:
// 73:6b, 0x73, 0x6b, \x73\x6b, and dumps of xxd, od and hexdump, of which it skips
// the offsets on the left and the characters on the right.
type hexes struct {
	view
	terminal
	maybe  []digit // digits that may be no part of it: an offset, or the 0 of 0x
	column int     // digits that begin the line, -1 behind them
	dump   uint8   // what separates the characters on the right of this dump: blank, bar, or 0
	left   bool    // there were digits in this line of a dump
	right  bool    // it was read up to the characters
	last   byte    // of the run
	tail   *hit    // a hit in this line of a dump, whose right is one as well
}

type digit struct {
	value uint8
	at    int64
}

func (v *hexes) write(p []byte, at int64) {
	calm := beforeEscape(p)
	for i := 0; i < len(p); i++ {
		b := p[i]
		k := hexKinds[b]
		if v.state != visible || b == 0x1b {
			v.takes(b)
			i += v.follow(p[i+1:])
			if v.tail != nil {
				v.tail.to = at + int64(i) + 1
			}
			if i >= calm {
				calm = i + 1 + beforeEscape(p[i+1:])
			}
		} else if v.dump != 0 {
			v.dumped(b, at+int64(i))
			v.last = b
		} else if k == foreign {
			v.end()
			if i < calm {
				i += v.skip(p[i+1 : calm])
			}
		} else if k < 16 && k != 0 && v.column < 0 && len(v.maybe) == 0 {
			v.push(k, at+int64(i))
			v.last = b
		} else {
			v.read(k, at+int64(i))
			v.last = b
		}
	}
}

// beforeEscape returns how many bytes of p stand before an escape sequence.
func beforeEscape(p []byte) int {
	if i := bytes.IndexByte(p, 0x1b); i >= 0 {
		return i
	}
	return len(p)
}

// skip returns how many of the bytes behind a run cannot be part of one: each run
// with a head in it has as many bytes in a row that are not foreign.
func (v *hexes) skip(p []byte) int {
	i := 0
	for i+v.head <= len(p) {
		j := i + v.head - 1
		for j >= i && hexKinds[p[j]] != foreign {
			j--
		}
		if j < i {
			return i
		}
		i = j + 1
	}
	for j := len(p) - 1; j >= i; j-- { // too few behind it
		if hexKinds[p[j]] == foreign {
			return j + 1
		}
	}
	return i
}

// end ends a run of digits.
func (v *hexes) end() {
	v.take()
	if v.n > 0 {
		v.cut()
	}
	v.column, v.last = -1, 0
}

// take reads the digits that are part of it after all.
func (v *hexes) take() {
	for _, d := range v.maybe {
		v.push(d.value, d.at)
	}
	v.maybe = v.maybe[:0]
}

func (v *hexes) read(k uint8, at int64) {
	if k < 16 {
		switch {
		case v.column >= 0 && v.column < 8:
			v.column++
			v.maybe = append(v.maybe, digit{k, at})
		case k == 0:
			v.take()
			v.column = -1
			v.maybe = append(v.maybe, digit{k, at})
		default:
			v.take()
			v.column = -1
			v.push(k, at)
		}
		return
	}
	zero := v.last == '0' && len(v.maybe) > 0
	switch {
	case k == ex && zero:
		v.maybe = v.maybe[:len(v.maybe)-1]
	case k == ex && v.last != '\\' && v.last != '#':
		v.end()
		return
	case k == blank && v.column == 7: // od
		v.maybe = v.maybe[:0]
	case (k == blank || k == colon) && v.column == 8 && hexKinds[v.last] < 16: // the next byte decides
		return
	case k == blank && v.column == 8 && v.last == ':': // xxd
		v.maybe, v.dump = v.maybe[:0], blank
	case k == blank && v.column == 8 && v.last == ' ': // hexdump
		v.maybe, v.dump = v.maybe[:0], bar
	case k == bar:
		v.end()
		return
	}
	v.take()
	v.column = -1
	if k == newLine {
		v.column = 0
	}
}

// dumped reads a byte of a dump's line, behind the offset.
func (v *hexes) dumped(b byte, at int64) {
	k := hexKinds[b]
	if k == newLine {
		v.dump, v.left, v.right, v.column = 0, false, false, 0
		if v.tail != nil {
			v.tail.grows, v.tail = false, nil
		}
		return
	}
	if !v.right {
		v.right = k == v.dump && (k == bar || v.last == ' ' && v.left)
		before := len(v.m.hits)
		switch {
		case v.right:
		case k < 16:
			v.left = true
			v.push(k, at)
		case k != blank: // it is no dump
			v.cut()
			v.dump = 0
			if v.tail != nil {
				v.tail.grows, v.tail = false, nil
			}
		}
		if len(v.m.hits) > before {
			if v.tail != nil {
				v.tail.grows = false
			}
			v.tail = v.m.hits[len(v.m.hits)-1]
			v.tail.grows = true
		}
	}
	if v.tail != nil {
		v.tail.to = at + 1
	}
}

// undecided is that of a view, and of the digits that may be a part of it.
func (v *hexes) undecided(end int64) int64 {
	first := v.view.undecided(end)
	window, n, at := v.window, v.n, v.at
	for i, d := range v.maybe {
		window, n = window<<4|uint64(d.value), n+1
		at[(v.n+i)&15] = d.at
	}
	return min(first, v.prefix(end, window, n, func(n int) int64 { return at[n&15] }))
}
