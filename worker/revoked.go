package worker

import (
	"context"
	"fmt"
	"slices"
)

// isRevoked reports whether the broker gives this worker nothing any more. A session that begins anew asks
// again: one may be revoked by its session alone.
func (w *worker) isRevoked() bool {
	session := w.lease.session()
	return session != 0 && w.revoked.Load() == session
}

// revokedNow is called with the broker's word that the worker is revoked. It leaves runs whose steps have secrets to
// others from now on, and says so: those it has go back as they come to such a step.
func (w *worker) revokedNow(session int64, why error) {
	was := w.revoked.Load()
	if session != w.lease.session() || was == session || !w.revoked.CompareAndSwap(was, session) { // a turn of a session that is over says nothing of the next
		return
	}
	w.log.Error("this worker is revoked: runs that need secrets are left to others", "session", fmt.Sprintf("%x", uint64(session)), "error", why)
	ids, unmet := append([]int32{}, w.rest.ids...), append([]int32{}, w.unservable...)
	for _, id := range w.wants.ids {
		if !slices.Contains(ids, id) {
			unmet = append(unmet, id)
		}
	}
	w.tel.claimable.Store(&ids)
	w.exec(context.Background(), w.q.WorkerOffers, session, ids, unmet)
}
