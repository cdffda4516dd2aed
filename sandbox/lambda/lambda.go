package lambda

import (
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/lambda/internal/wire"
)

// Name is the name of this backend.
const Name = "lambda"

// Limits of AWS Lambda.
const (
	MaxRequest  = 6 << 20          // bytes of the payload of an invocation
	MaxResponse = 200 << 20        // bytes of a response that is streamed
	MaxBuffered = 6 << 20          // bytes of one that is not
	MaxTime     = 15 * time.Minute // of an invocation
)

// Config configures [New].
type Config struct {
	// Client is that of the account and region of the function; required. It needs
	// the right lambda:InvokeFunction for it, and no other.
	Client *lambda.Client

	// Function is the name or ARN of a function that package function is the program
	// of; required. An ARN may have a version or an alias.
	Function string

	// Buffered takes responses as a whole, where AWS or what lies on the way to it
	// does not stream them: they have at most [MaxBuffered] bytes, and arrive at the
	// end, which [sandbox.Cmd.Start] waits for then.
	Buffered bool
}

// A Backend makes sandboxes of one function. It is safe for concurrent use.
type Backend struct {
	config Config

	mu    sync.Mutex // held while it is probed
	facts *wire.Facts
}

var _ sandbox.Invoker = (*Backend)(nil)

// New returns a backend. It talks to nobody yet: [Backend.Probe] does.
func New(c Config) *Backend { return &Backend{config: c} }

// Name returns "lambda".
func (*Backend) Name() string { return Name }

// A LimitError reports that an invocation met a limit of AWS Lambda. Unless it is
// the request that was too large, it is [sandbox.ErrLost] as well.
type LimitError struct {
	Limit string // "request payload", "response payload" or "duration"
	Max   string // as "6291456 bytes", "15m0s"
	Size  int64  // bytes of the request
	Err   error  // nil, or what AWS said
}

func (e *LimitError) Error() string {
	s := fmt.Sprintf("sandbox: backend %s: the limit of AWS Lambda for the %s is %s", Name, e.Limit, e.Max)
	if e.Size > 0 {
		s += fmt.Sprintf(", this one has %d", e.Size)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Permanent reports that another attempt would meet the limit as well: of a request
// that is too large.
func (e *LimitError) Permanent() bool { return e.Size > 0 }

func (e *LimitError) Unwrap() error { return e.Err }

func unavailable(reason string, err error) error {
	return &sandbox.UnavailableError{Backend: Name, Reason: reason, Err: err}
}

func unsupported(field, reason string) error {
	return &sandbox.UnsupportedError{Backend: Name, Field: field, Reason: reason}
}
