package runner

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/redact"
	"github.com/stepward/stepward/internal/rpc"
)

// options are those of all calls.
func (s *server) options() []connect.HandlerOption {
	return append(rpc.HandlerOptions(), connect.WithInterceptors(redactErrors{&s.execs.redactor}))
}

// redactErrors takes secrets out of the errors of calls: they name files, and more.
type redactErrors struct{ set *redact.Set }

func (r redactErrors) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		resp, err := next(ctx, req)
		return resp, r.redact(err)
	}
}

func (r redactErrors) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return r.redact(next(ctx, conn))
	}
}

func (r redactErrors) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (r redactErrors) redact(err error) error {
	if err == nil || r.set.Empty() {
		return err
	}
	message := err.Error()
	var ce *connect.Error
	if errors.As(err, &ce) {
		message = ce.Message()
	}
	redacted := r.set.Redact(message)
	if redacted == message {
		return err
	}
	return connect.NewError(connect.CodeOf(err), errors.New(redacted))
}
