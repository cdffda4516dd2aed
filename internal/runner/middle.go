package runner

// A middleless keeps the first and the last bytes of a stream, half of most each, and less once it had to be halved.
type middleless struct {
	most  int64 // above 1
	total int64 // bytes that were written, and start
	start int64 // offset of the first byte

	first  []byte
	last   []byte // a ring once it is full; see done
	at     int    // of the ring: where the oldest byte is
	halved bool   // first and last grow no more
}

func (m *middleless) write(p []byte) {
	m.total += int64(len(p))
	half := int(m.most / 2)
	if m.halved {
		half = len(m.last)
	} else {
		n := min(half-len(m.first), len(p))
		m.first, p = append(m.first, p[:n]...), p[n:]
	}
	if len(p) > half {
		m.at = 0 // none of what the ring has stays
		m.last = append(m.last[:0], p[len(p)-half:]...)
		return
	}
	n := min(half-len(m.last), len(p))
	m.last, p = append(m.last, p[:n]...), p[n:]
	for len(p) > 0 {
		n := copy(m.last[m.at:], p)
		m.at, p = (m.at+n)%half, p[n:]
	}
}

// halve leaves out the inner half of what there is, which is more than a byte, and keeps no more than that from now on.
func (m *middleless) halve() {
	m.done()
	if len(m.last) == 0 {
		n := len(m.first) / 2
		m.first, m.last = m.first[:n], m.first[n:]
	}
	m.first = append([]byte(nil), m.first[:len(m.first)/2]...)
	m.last = append([]byte(nil), m.last[len(m.last)/2:]...) // a byte at least: the end of it tells what is left out
	m.halved = true
}

// done puts the last bytes into order.
func (m *middleless) done() {
	m.last = append(append(make([]byte, 0, len(m.last)), m.last[m.at:]...), m.last[:m.at]...)
	m.at = 0
}

// from returns what there is from offset on, without copying it, and the offset
// that it begins at. The last bytes can be read once done was called.
func (m *middleless) from(offset int64, done bool) ([]byte, int64) {
	offset = max(offset, m.start)
	if end := m.start + int64(len(m.first)); offset < end {
		return m.first[offset-m.start:], offset
	}
	if !done {
		return nil, offset
	}
	at := min(max(offset, m.total-int64(len(m.last))), m.total)
	return m.last[at-(m.total-int64(len(m.last))):], at
}
