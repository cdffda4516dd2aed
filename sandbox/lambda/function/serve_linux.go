package function

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/sandbox/lambda/internal/wire"
)

// Serve answers invocations and never returns in an execution environment of AWS
// Lambda. Everywhere else it does nothing. It must come after bootstrap.Init and
// before anything that starts a process or holds what a sandbox must not have.
func Serve() {
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") == "" {
		return
	}
	h := new(handler)
	h.single, h.broken = runner.NewSingle(wire.Dir)
	if h.broken == nil && lambdacontext.MaxConcurrency() > 1 {
		h.broken = errors.New("the function is set up for several invocations at a time in one environment: sandboxes would share it")
	}
	lambda.Start(h.handle)
}

// A handler serves one sandbox.
type handler struct {
	single  *runner.Single
	broken  error  // why there is none
	sandbox string // the first that asked
}

// notRun is an error that says that nothing was run.
func notRun(exit bool, format string, args ...any) error {
	return messages.InvokeResponse_Error{Type: wire.NotRun, Message: fmt.Sprintf(format, args...), ShouldExit: exit}
}

// handle is called for one invocation after the other.
func (h *handler) handle(ctx context.Context, req wire.Request) (*response, error) {
	lc, _ := lambdacontext.FromContext(ctx)
	deadline, _ := ctx.Deadline()
	switch {
	case h.broken != nil:
		return nil, notRun(false, "the function cannot confine what it runs: %v", h.broken)
	case req.Protocol != wire.Protocol:
		return nil, notRun(false, "the function speaks protocol %d, not %d: deploy the worker's version", wire.Protocol, req.Protocol)
	case lc == nil || lc.TenantID == "":
		return nil, notRun(false, "the function has no tenant isolation: create it with TenancyConfig PER_TENANT")
	case req.Sandbox != lc.TenantID:
		return nil, notRun(true, "sandbox %s asks with the tenant ID of %s", req.Sandbox, lc.TenantID)
	case h.sandbox != "" && h.sandbox != req.Sandbox:
		return nil, notRun(true, "the environment is that of another sandbox")
	}
	h.sandbox = req.Sandbox
	if req.Exec == nil {
		raw, err := json.Marshal(h.facts(deadline))
		return &response{io.NopCloser(bytes.NewReader(raw))}, err
	}
	r, w := io.Pipe()
	go func() {
		ctx, cancel := context.WithDeadline(ctx, deadline.Add(-wire.Margin/2))
		defer cancel()
		w.CloseWithError(h.single.Run(ctx, req.Exec, w))
	}()
	return &response{r}, nil
}

func (h *handler) facts(deadline time.Time) wire.Facts {
	f := &h.single.Facts
	var root unix.Statfs_t
	return wire.Facts{
		Protocol: wire.Protocol, Landlock: int(f.Landlock), Seccomp: f.Seccomp, Capabilities: f.Capabilities,
		ReadOnlyRoot: unix.Statfs("/", &root) == nil && root.Flags&unix.ST_RDONLY != 0,
		Timeout:      time.Until(deadline).Round(time.Second),
	}
}

// A response is streamed. Without exported fields it is nothing as JSON, which is
// how the library of AWS tells that it is to be read.
type response struct{ body io.ReadCloser }

func (r *response) Read(p []byte) (int, error) { return r.body.Read(p) }
func (r *response) Close() error               { return r.body.Close() }
