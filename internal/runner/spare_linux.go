package runner

import (
	"bytes"
	"context"
	"slices"

	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/stepward/stepward/internal/rpc"
)

// startSpare starts the process of a guest step ahead of its call, unless something
// was executed already. It is for a sandbox that waits to be claimed: a program's own
// start is most of what a guest step costs. The first exec takes it, or ends it.
func (x *execs) startSpare() {
	<-x.prepared
	x.mu.Lock()
	if x.used || x.spare != nil {
		x.mu.Unlock()
		return
	}
	req := &rpc.ExecRequest{Guest: &rpc.GuestCall{}, DiscardStdout: true}
	e := newExec(x.env(req))
	x.spare = e
	x.mu.Unlock()
	go x.run(e, req)
	prime(&rpc.ExecRequest{Guest: &rpc.GuestCall{}}, &rpc.ExecEvent{Event: &rpc.ExecEvent_Output{Output: &rpc.Output{}}}, &rpc.ExecEvent{Event: &rpc.ExecEvent_End{End: &rpc.End{Usage: &rpc.Usage{}}}})
}

// takeSpare returns the spare if the request is for a process like it. x.mu is held.
func (x *execs) takeSpare(req *rpc.ExecRequest) *exec {
	e := x.spare
	x.spare, x.used = nil, true
	if e == nil {
		return nil
	}
	over := false
	select {
	case <-e.empty:
		over = true
	default:
	}
	if over || req.Guest == nil || req.Dir != "" || !req.DiscardStdout || req.DiscardStderr || req.MaxOutput > 0 || !slices.Equal(e.env, x.env(req)) || x.redirecting() != nil {
		go func() { _ = e.kill(context.Background()) }()
		return nil
	}
	return e
}

func (x *execs) isSpare(e *exec) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.spare == e
}

// env is the environment of a request's process.
func (x *execs) env(req *rpc.ExecRequest) []string {
	return withoutOwn(slices.Concat(baseEnv(), x.environ(), req.Env))
}

// encodeCall returns a call as the guest reads it.
func encodeCall(call *rpc.GuestCall) ([]byte, error) {
	if call == nil {
		return nil, nil
	}
	var raw bytes.Buffer
	_, err := protodelim.MarshalTo(&raw, call)
	return raw.Bytes(), err
}
