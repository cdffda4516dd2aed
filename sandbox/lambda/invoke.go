package lambda

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/schemas"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/transport/http/protocol/restjson1"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/lambda/internal/wire"
)

// Invoke runs a command or a guest step by an invocation of its own.
func (b *Backend) Invoke(ctx context.Context, id string, request []byte) (io.ReadCloser, error) {
	return b.invoke(ctx, wire.Request{Protocol: wire.Protocol, Sandbox: id, Exec: request})
}

func (b *Backend) invoke(ctx context.Context, r wire.Request) (io.ReadCloser, error) {
	payload, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if len(payload) > MaxRequest {
		return nil, tooLarge(len(payload), nil)
	}
	if b.config.Buffered {
		out, err := b.config.Client.Invoke(ctx, &lambda.InvokeInput{FunctionName: &b.config.Function, Payload: payload, TenantId: &r.Sandbox}, once)
		if err != nil {
			return nil, b.refused(ctx, len(payload), err)
		}
		if err := b.failed(aws.ToString(out.FunctionError), string(out.Payload)); err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(out.Payload)), nil
	}
	out, err := b.config.Client.InvokeWithResponseStream(ctx, &lambda.InvokeWithResponseStreamInput{
		FunctionName: &b.config.Function, Payload: payload, TenantId: &r.Sandbox,
	}, once)
	if err != nil {
		return nil, b.refused(ctx, len(payload), err)
	}
	return &events{b: b, stream: out.GetStream()}, nil
}

// A patient client sends a request to its end. The SDK closes the body of a request
// when the response begins; if the last of it is just being sent, that closes the
// connection, on which the response goes on.
type patient struct{ lambda.HTTPClient }

func (c patient) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		payload, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(payload))
	}
	return c.HTTPClient.Do(r)
}

// once lets the SDK try again only where it is certain that nothing was run. What
// decodes the response is for this one alone: the SDK's is for all of a client, and
// not safe for two that are read at a time.
func once(o *lambda.Options) {
	o.HTTPClient = patient{o.HTTPClient}
	o.Protocol = restjson1.New(schemas.AWSGirApiService)
	o.Retryer = retry.NewStandard(func(s *retry.StandardOptions) {
		s.Retryables = []retry.IsErrorRetryable{retry.RetryableErrorCode{Codes: map[string]struct{}{
			"TooManyRequestsException": {}, "EC2ThrottledException": {}, "ResourceNotReadyException": {},
		}}}
	})
}

func tooLarge(size int, err error) error {
	return &LimitError{Limit: "request payload", Max: fmt.Sprintf("%d bytes", MaxRequest), Size: int64(size), Err: err}
}

// refused says what became of an invocation that has no response.
func (b *Backend) refused(ctx context.Context, size int, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", sandbox.ErrLost, err)
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return fmt.Errorf("%w: invoke %s: %w", sandbox.ErrLost, b.config.Function, err)
	}
	switch code := api.ErrorCode(); {
	case strings.Contains(code, "TooLarge"):
		return tooLarge(size, err)
	case code == "TooManyRequestsException":
		return fmt.Errorf("sandbox: backend %s: the function has as many invocations as it may: %w", Name, err)
	case code == "InvalidParameterValueException" && strings.Contains(strings.ToLower(api.ErrorMessage()), "tenan"):
		return unavailable("function "+b.config.Function+" has no tenant isolation: create it with TenancyConfig PER_TENANT", err)
	case api.ErrorFault() == smithy.FaultServer:
		return fmt.Errorf("%w: invoke %s: %w", sandbox.ErrLost, b.config.Function, err)
	}
	return unavailable("function "+b.config.Function+" cannot be invoked", err)
}

// events reads a response.
type events struct {
	b      *Backend
	stream *lambda.InvokeWithResponseStreamEventStream
	chunk  bytes.Reader
	err    error
}

func (e *events) Read(p []byte) (int, error) {
	for e.chunk.Len() == 0 {
		if e.err != nil {
			return 0, e.err
		}
		event, ok := <-e.stream.Events()
		if !ok {
			e.err = errors.New("the response broke off")
			if err := e.stream.Err(); err != nil {
				e.err = fmt.Errorf("%w: %w", e.err, err)
			}
			e.err = fmt.Errorf("%w: %w", sandbox.ErrLost, e.err)
			continue
		}
		switch ev := event.(type) {
		case *types.InvokeWithResponseStreamResponseEventMemberPayloadChunk:
			e.chunk.Reset(ev.Value.Payload)
		case *types.InvokeWithResponseStreamResponseEventMemberInvokeComplete:
			e.err = e.b.failed(aws.ToString(ev.Value.ErrorCode), aws.ToString(ev.Value.ErrorDetails))
			if e.err == nil {
				e.err = io.EOF
			}
		}
	}
	return e.chunk.Read(p)
}

func (e *events) Close() error { return e.stream.Close() }

// failed says how an invocation ended, nil if as it should.
func (b *Backend) failed(code, details string) error {
	if code == "" {
		return nil
	}
	said := struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}{Type: code, Message: details}
	_ = json.Unmarshal([]byte(details), &said) // or it is shown as it is
	err := fmt.Errorf("%s: %.2000s", said.Type, said.Message)
	switch {
	case said.Type == wire.NotRun || code == wire.NotRun:
		return unavailable("function "+b.config.Function+": "+said.Message, nil)
	case said.Type == "Sandbox.Timedout" || strings.Contains(said.Message, "Task timed out after"):
		err = &LimitError{Limit: "duration", Max: b.timeout().String(), Err: err}
	case strings.Contains(said.Type+code, "ResponseSizeTooLarge"):
		most := MaxResponse
		if b.config.Buffered {
			most = MaxBuffered
		}
		err = &LimitError{Limit: "response payload", Max: fmt.Sprintf("%d bytes", most), Err: err}
	}
	return fmt.Errorf("%w: function %s: %w", sandbox.ErrLost, b.config.Function, err)
}
