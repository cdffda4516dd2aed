package runner

import "sync/atomic"

// keepUnread is how much output of all commands is kept in memory together that could be left out: of those that have
// ended, and of those with a limit of their own.
const keepUnread = 32 << 20

// A hoard counts what outlogs keep, and has them keep less when it is too much.
type hoard struct {
	most    int64
	sum     atomic.Int64
	squeeze func() // until fits
}

func (h *hoard) fits() bool { return h.sum.Load() <= h.most }

// count tells the hoard how much the log keeps that can be left out. The caller holds l.mu.
func (l *outlog) count() {
	if l.hoard == nil {
		return
	}
	n := 0
	switch {
	case l.middle != nil:
		n = len(l.middle.first) + len(l.middle.last)
	case l.closed:
		n = len(l.buf)
	}
	l.hoard.sum.Add(int64(n - l.counted))
	l.counted = n
}

// fit has all logs keep less, if they have to. The caller holds no lock.
func (l *outlog) fit() {
	if l.hoard != nil && !l.hoard.fits() {
		l.hoard.squeeze()
	}
}

// halve leaves out about half of what can be left out, in the middle.
func (l *outlog) halve() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.middle == nil {
		if !l.closed {
			return
		}
		l.middle = &middleless{start: l.start, total: l.end(), first: l.buf}
		l.buf = nil
	}
	l.middle.halve()
	l.count()
}
