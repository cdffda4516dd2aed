package redact

import (
	"io"
	"maps"
	"slices"
)

// A Writer passes on a text without the values of its set. It is not to be used by
// two goroutines at once. While the set is empty, it costs one atomic load a write.
type Writer struct {
	set *Set
	to  io.Writer

	guard bool // it fails instead of redacting

	m    *matcher
	held []byte // the end of the text, not passed on
	out  []byte
	last *hit // whose name was written last
}

// Writer returns a writer that passes on to w. Each write makes at most one of w's.
func (s *Set) Writer(w io.Writer) *Writer { return &Writer{set: s, to: w} }

// Guard returns a writer for what must not be rewritten. It passes on what it gets until
// there is a value in it: then it fails with a [*FoundError], and has passed on none of that.
func (s *Set) Guard(w io.Writer) *Writer { return &Writer{set: s, to: w, guard: true} }

// Write passes on what has no part in a match that may still come.
func (w *Writer) Write(p []byte) (int, error) {
	t := w.set.table.Load()
	if t == nil {
		return w.to.Write(p)
	}
	if w.m == nil {
		w.m = newMatcher()
	}
	w.held = append(w.held, p...)
	w.m.write(t, p)
	return len(p), w.pass(w.m.undecided())
}

// Held returns how many bytes are held back.
func (w *Writer) Held() int { return len(w.held) }

// Idle passes on what is held back if it is less than 4 bytes of a value: call it when
// nothing was written for a moment, so that a person sees the end of a prompt. A
// value that goes on later is redacted from there on.
func (w *Writer) Idle() error {
	if w.m == nil || len(w.held) == 0 || w.m.begun() >= 4 {
		return nil
	}
	return w.pass(w.m.end)
}

// Close passes on the rest. It does not close what the writer passes on to.
func (w *Writer) Close() error {
	if w.m == nil {
		return nil
	}
	w.m.finish()
	return w.pass(w.m.end)
}

// pass passes on the text up to a byte of it, with names for the hits.
func (w *Writer) pass(limit int64) error {
	if w.guard && len(w.m.hits) > 0 {
		return w.found()
	}
	at := w.m.end - int64(len(w.held))
	n := limit - at
	if n <= 0 {
		return nil
	}
	text := w.held[:n]
	if len(w.m.hits) > 0 {
		text = w.redact(text, at)
	}
	var err error
	if len(text) > 0 {
		_, err = w.to.Write(text)
	}
	w.held = append(w.held[:0], w.held[n:]...)
	return err
}

func (w *Writer) found() error {
	names := map[string]bool{}
	for _, h := range w.m.hits {
		if !h.named {
			h.named = true
			w.set.count(h.pattern)
		}
		names[h.pattern.name] = true
	}
	return &FoundError{slices.Sorted(maps.Keys(names))}
}

// redact returns the text, which begins at a byte, with names for the hits.
func (w *Writer) redact(text []byte, at int64) []byte {
	hits := w.m.hits
	order(hits)
	out, done, limit := w.out[:0], at, at+int64(len(text))
	left := hits[:0]
	for _, h := range hits {
		if h.from >= limit {
			left = append(left, h)
			continue
		}
		if h.to > done {
			if h.from > done {
				out = append(out, text[done-at:h.from-at]...)
			}
			if !h.named {
				w.set.count(h.pattern)
				// Two hits of one value that overlap or touch are one in the text.
				if w.last == nil || w.last.pattern.name != h.pattern.name || w.last.to < h.from {
					out = append(append(append(out, "[REDACTED:"...), h.pattern.name...), ']')
				}
				w.last = h
			}
			done = h.to
		}
		h.named = true
		if h.to > limit || h.grows {
			left = append(left, h)
		}
	}
	clear(hits[len(left):])
	w.m.hits = left
	out = append(out, text[min(done, limit)-at:]...)
	w.out = out
	return out
}
