package worker

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
)

// isRevoked reports whether the broker gives this worker nothing any more. A session that begins anew asks
// again: one may be revoked by its session alone.
func (w *worker) isRevoked() bool { return w.isOf(&w.revoked) }

// isStranded reports whether what starts brokers here has ended.
func (w *worker) isStranded() bool { return w.isOf(&w.stranded) }

// rests reports whether runs that need secrets are left to others.
func (w *worker) rests() bool { return w.isRevoked() || w.isStranded() }

func (w *worker) isOf(session *atomic.Int64) bool {
	s := w.lease.session()
	return s != 0 && session.Load() == s
}

// revokedNow is called with the broker's word that the worker is revoked.
func (w *worker) revokedNow(session int64, why error) {
	w.restNow(&w.revoked, session, "this worker is revoked", why)
}

// strandedNow is called when no broker can be started any more.
func (w *worker) strandedNow(session int64, why error) {
	w.restNow(&w.stranded, session, "no broker can be started", why)
}

// restNow leaves runs whose steps have secrets to others from now on, and says so: those that the worker has
// go back as they come to such a step.
func (w *worker) restNow(mark *atomic.Int64, session int64, what string, why error) {
	was := mark.Load()
	if session != w.lease.session() || was == session || !mark.CompareAndSwap(was, session) { // a turn of a session that is over says nothing of the next
		return
	}
	w.log.Error(what+": runs that need secrets are left to others", "session", fmt.Sprintf("%x", uint64(session)), "error", why)
	ids, unmet := append([]int32{}, w.rest.ids...), append([]int32{}, w.unservable...)
	for _, id := range w.wants.ids {
		if !slices.Contains(ids, id) {
			unmet = append(unmet, id)
		}
	}
	w.tel.claimable.Store(&ids)
	w.exec(context.Background(), w.q.WorkerOffers, session, ids, unmet)
}
