package runner

import (
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/stepward/stepward/internal/rpc"
)

const (
	// logAhead is how far the process may be ahead of its reader.
	logAhead = 256 << 10

	// logBehind is how much of what a reader took is kept for one that comes
	// back: what was on its way when a connection broke, in the buffers of sockets
	// and of what stands between (a container engine copies it twice), is lost.
	logBehind = 1 << 20
)

// An outlog keeps the end of one output stream. A writer waits while it holds
// logAhead bytes that no reader has taken, which holds up the process that writes.
// With middle set, nobody waits, and bytes of the middle are left out.
type outlog struct {
	wake   *broadcast
	middle *middleless // set before its first use, or nil
	hoard  *hoard      // nil: of no account
	answer bool        // it is a guest's, of which the front alone is given up, and not in the middle of a field; the same

	mu     sync.Mutex
	buf    []byte
	start  int64 // offset of buf[0]
	taken  int64 // highest offset that a reader took
	closed bool

	counted int // in hoard
}

func (l *outlog) end() int64 {
	if l.middle != nil {
		return l.middle.total
	}
	return l.start + int64(len(l.buf))
}

// size is how many bytes it holds.
func (l *outlog) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.middle != nil {
		return len(l.middle.first) + len(l.middle.last)
	}
	return len(l.buf)
}

// write appends p, and waits for room as often as it must. It returns false
// when the log was closed under it.
func (l *outlog) write(p []byte) bool {
	for len(p) > 0 {
		wait := l.wake.wait()
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return false
		}
		if l.middle != nil {
			l.middle.write(p)
			l.count()
			l.mu.Unlock()
			l.wake.all()
			l.fit()
			return true
		}
		room := int(logAhead - (l.end() - l.taken))
		n := min(room, len(p))
		if n > 0 {
			l.buf = append(l.buf, p[:n]...)
			if over := int(l.taken - logBehind - l.start); over > logAhead { // move rarely
				if l.answer {
					over = early(l.buf, over)
				}
				if over > 0 {
					l.buf = append(l.buf[:0], l.buf[over:]...)
					l.start += int64(over)
				}
			}
			p = p[n:]
		}
		l.mu.Unlock()
		if n > 0 {
			l.wake.all()
			continue
		}
		<-wait
	}
	return true
}

// early returns how many of the first most bytes of an answer are whole fields of what
// stands before it.
func early(answer []byte, most int) (n int) {
	for {
		field, kind, tag := protowire.ConsumeTag(answer[n:])
		if tag < 0 || field != rpc.DetailsField && field != rpc.ShownField || kind != protowire.BytesType {
			return n
		}
		_, content := protowire.ConsumeBytes(answer[n+tag:])
		if content < 0 || n+tag+content > most {
			return n
		}
		n += tag + content
	}
}

// close ends the stream. What it holds can still be read.
func (l *outlog) close() {
	l.mu.Lock()
	l.closed = true
	if l.middle != nil {
		l.middle.done()
	}
	l.count()
	l.mu.Unlock()
	l.wake.all()
	l.fit()
}

// read returns a copy of up to limit bytes from offset on, the offset that they
// begin at, and whether the stream is over.
func (l *outlog) read(offset int64, limit int) (data []byte, at int64, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rest []byte
	if l.middle != nil {
		rest, at = l.middle.from(offset, l.closed)
	} else {
		at = min(max(offset, l.start), l.end())
		rest = l.buf[at-l.start:]
	}
	if len(rest) == 0 {
		return nil, at, l.closed
	}
	return append([]byte(nil), rest[:min(limit, len(rest))]...), at, false
}

// took makes room: a reader has all bytes before offset.
func (l *outlog) took(offset int64) {
	l.mu.Lock()
	l.taken = max(l.taken, min(offset, l.end()))
	l.mu.Unlock()
	l.wake.all()
}

// drop frees the memory once a reader has seen the end.
func (l *outlog) drop() {
	l.mu.Lock()
	if m := l.middle; m != nil {
		m.first, m.last = nil, nil
	}
	l.start, l.buf = l.end(), nil
	l.count()
	l.mu.Unlock()
}

// A broadcast wakes all who wait.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) all() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
