package redact

// A terminal follows the escape sequences of a text.
type terminal struct {
	state uint8
	left  int // bytes that a string may still have
}

const (
	visible = iota
	escape  // behind ESC
	control // behind ESC [
	str     // behind ESC ] and the like, up to BEL, ESC \ or the end of the line
	strEnd  // behind an ESC in it
)

// takes reports whether b is a part of an escape sequence.
func (t *terminal) takes(b byte) bool {
	switch t.state {
	case visible:
		if b != 0x1b {
			return false
		}
		t.state = escape
	case escape:
		t.escaped(b)
	case control:
		if b < 0x20 || b >= 0x40 { // the last one, or none that belongs to it
			t.state = visible
		}
	case str:
		t.left--
		switch {
		case b == 0x1b:
			t.state = strEnd
		case b == 7 || b == '\n' || t.left <= 0: // no title has lines: it was noise
			t.state = visible
		}
	case strEnd:
		t.state = visible
		if b != '\\' {
			t.escaped(b)
		}
	}
	return true
}

// follow returns how many bytes of p go on with an escape sequence that has begun.
func (t *terminal) follow(p []byte) int {
	i := 0
	for i < len(p) && t.state != visible {
		if t.state == control {
			for i < len(p) && p[i] >= 0x20 && p[i] < 0x40 {
				i++
			}
			if i == len(p) {
				return i
			}
		}
		t.takes(p[i])
		i++
	}
	return i
}

func (t *terminal) escaped(b byte) {
	switch {
	case b == '[':
		t.state = control
	case b == ']' || b == 'P' || b == 'X' || b == '^' || b == '_':
		t.state, t.left = str, 4<<10
	case b == 0x1b || b >= 0x20 && b < 0x30:
		t.state = escape
	default:
		t.state = visible
	}
}
