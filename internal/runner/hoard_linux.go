package runner

// release has the logs of an exec that has ended count no more: what a reader holds is its own.
func (e *exec) release() {
	for i := range e.out {
		l := &e.out[i]
		l.mu.Lock()
		if l.hoard != nil {
			l.hoard.sum.Add(int64(-l.counted))
			l.hoard, l.counted = nil, 0
		}
		l.mu.Unlock()
	}
}

// squeeze halves what is most, until all fits.
func (x *execs) squeeze() {
	x.squeezing.Lock()
	defer x.squeezing.Unlock()
	for !x.hoard.fits() {
		x.mu.Lock()
		var largest *outlog
		size := 1 // what has no half
		for _, e := range x.byID {
			for i := range e.out {
				l := &e.out[i]
				l.mu.Lock()
				if l.counted > size {
					largest, size = l, l.counted
				}
				l.mu.Unlock()
			}
		}
		x.mu.Unlock()
		if largest == nil {
			return
		}
		largest.halve()
	}
}
