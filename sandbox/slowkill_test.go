package sandbox

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
)

// A slowRunner has ended what is to be killed at some time, and answers of what there is
// not at once, unless it has gone.
type slowRunner struct {
	rpcconnect.RunnerClient
	ends time.Time
	gone bool
}

func (r slowRunner) Kill(ctx context.Context, req *connect.Request[rpc.KillRequest]) (*connect.Response[rpc.KillResponse], error) {
	if req.Msg.Id == "" && !r.gone {
		return connect.NewResponse(&rpc.KillResponse{}), nil
	}
	ended := time.After(time.Until(r.ends))
	if r.gone {
		ended = nil
	}
	select {
	case <-ended:
		return connect.NewResponse(&rpc.KillResponse{Found: true}), nil
	case <-ctx.Done():
		return nil, connect.NewError(connect.CodeDeadlineExceeded, ctx.Err())
	}
}

// A runner that is at work on a kill is not given up as one that has gone is.
func TestSlowKill(t *testing.T) {
	for _, c := range []struct {
		takes time.Duration
		gone  bool
		ok    bool
		after time.Duration
	}{
		{time.Second, false, true, time.Second},
		{killTimeout - time.Second, false, true, killTimeout - time.Second},
		{killTimeout + time.Second, false, false, killTimeout},
		{time.Second, true, false, killPatience + killPatience/2},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), killTimeout)
			defer cancel()
			resp, err := askKill(ctx, slowRunner{ends: began.Add(c.takes), gone: c.gone}, "one")
			if took := time.Since(began); took != c.after || c.ok != (err == nil && resp.Msg.Found) {
				t.Errorf("%+v: %v after %v", c, err, took)
			}
		})
	}
}
