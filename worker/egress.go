package worker

import (
	"context"
	"encoding/json"
	"reflect"
	"sync"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// egressEvery is how often what a sandbox reaches is written down while it
// lives, if there is news.
const egressEvery = 30 * time.Second

// egress records what was decided about the connections of a sandbox: from time to
// time, when record is called, and a last time by end.
func (h *host) egress(ctx context.Context, key string, sb *sandbox.Sandbox) (record, end func()) {
	ctx = context.WithoutCancel(ctx)
	var last []sandbox.Egress
	var mu sync.Mutex
	record = func() {
		mu.Lock()
		defer mu.Unlock()
		all := sb.Egress()
		if len(all) == 0 || reflect.DeepEqual(all, last) {
			return
		}
		detail, err := json.Marshal(struct {
			Sandbox string           `json:"sandbox"`
			Egress  []sandbox.Egress `json:"egress"`
		}{sb.ID(), all})
		if err == nil {
			err = h.w.retry(ctx, h.t, func(ctx context.Context) error {
				_, err := h.w.Pool.Exec(ctx, h.w.q.SandboxEgress, h.t.run, h.w.actor(), key, detail)
				return err
			})
		}
		if err != nil {
			h.w.log.WarnContext(ctx, "what a sandbox reached is not on record", "sandbox", sb.ID(), "error", err)
			return
		}
		last = all
	}
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(egressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				record()
			case <-over:
				return
			}
		}
	}()
	return record, func() {
		close(over)
		<-done
		record()
	}
}
