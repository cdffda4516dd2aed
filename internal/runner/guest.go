package runner

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/internal/beat"
	"github.com/stepward/stepward/internal/rpc"
)

// serveGuest runs the step whose request comes on in and writes its answer to
// out. A step that ends the process leaves no answer.
func serveGuest(g Guest, in io.Reader, out io.Writer) error {
	pen := &pen{w: out}
	outlet := &Outlet{pen: pen, in: bufio.NewReader(in)}
	var call rpc.GuestCall
	if err := (protodelim.UnmarshalOptions{MaxSize: rpc.MaxMessage}).UnmarshalFrom(outlet.in, &call); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	outlet.unanswered = call.NoReceipts
	for _, kv := range os.Environ() {
		if k, _, _ := strings.Cut(kv, "="); strings.HasPrefix(k, "STEPWARD_") {
			os.Unsetenv(k)
		}
	}
	if err := takeSecrets(call.Secrets); err != nil {
		return fmt.Errorf("take the secrets: %w", err)
	}
	ctx := context.Background()
	if call.TimeoutNs > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(call.TimeoutNs))
		defer cancel()
	}
	beats := &beat.Line{
		Every: cmp.Or(time.Duration(call.BeatEveryNs), time.Second),
		Pass:  func(details []byte) { pen.early(rpc.DetailsField, details) },
	}
	answer := callGuest(ctx, g, &call, beats.Send, outlet)
	outlet.close()
	if newest, left := beats.Close(); left {
		beats.Pass(newest)
	}
	answer.Done = true
	raw, err := proto.Marshal(answer)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return pen.last(raw)
}

// rehearse serves a step that does not exist, so that the first one waits for nothing
// that only a first one needs.
func rehearse() {
	var call bytes.Buffer
	_, _ = protodelim.MarshalTo(&call, &rpc.GuestCall{Step: "none"})
	_ = serveGuest(nil, &call, io.Discard)
}

// prime has the encodings of messages prepared, which their first use would wait for.
func prime(messages ...proto.Message) {
	for _, m := range messages {
		_, _ = proto.Marshal(m)
		_ = proto.Unmarshal(nil, m)
	}
}

// A pen writes an answer, and what stands before it.
type pen struct {
	mu   sync.Mutex
	w    io.Writer
	done bool
}

// early writes a field of what stands before the answer. That fails when the
// runner has gone, and this process with it.
func (p *pen) early(field protowire.Number, content []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.done {
		_, _ = p.w.Write(protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), content))
	}
}

func (p *pen) last(answer []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	_, err := p.w.Write(answer)
	return err
}

func callGuest(ctx context.Context, g Guest, call *rpc.GuestCall, report func([]byte), outlet *Outlet) (a *rpc.GuestAnswer) {
	defer func() {
		if p := recover(); p != nil {
			a = &rpc.GuestAnswer{Failure: &rpc.GuestFailure{
				Message: text(fmt.Sprint(p)), Type: fmt.Sprintf("%T", p), Panic: true, Stack: text(string(debug.Stack())),
			}}
		}
	}()
	if g == nil {
		return &rpc.GuestAnswer{Failure: &rpc.GuestFailure{Message: "the program in the sandbox has no guest steps", Permanent: true}}
	}
	out, err := g(ctx, GuestRequest{
		Workflow: call.Workflow, Version: call.Version, Step: call.Step, RunID: call.RunId,
		Attempt: int(call.Attempt), IdempotencyKey: call.IdempotencyKey, Input: call.Input,
		Details: call.Details, Beat: report, Outlet: outlet,
	})
	if err != nil {
		return &rpc.GuestAnswer{Failure: failure(err)}
	}
	return &rpc.GuestAnswer{Output: out}
}

func failure(err error) *rpc.GuestFailure {
	f := &rpc.GuestFailure{Message: text(err.Error()), Type: fmt.Sprintf("%T", unmarked(err))}
	var p permanent
	if errors.As(err, &p) {
		f.Permanent = p.Permanent()
	}
	var r retryAfter
	if errors.As(err, &r) {
		f.RetryAfterNs = int64(r.RetryAfter())
	}
	return f
}

type (
	permanent  interface{ Permanent() bool }
	retryAfter interface{ RetryAfter() time.Duration }
)

// unmarked returns the error that was marked as permanent, or with a wait.
func unmarked(err error) error {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		switch inner.(type) { //nolint:errorlint // each layer by itself
		case permanent, retryAfter:
		default:
			return inner
		}
	}
	return err
}

// cutMark stands where text was cut off.
const cutMark = "…"

// text is s as a protobuf string can hold it: UTF-8, and at most 64 KiB. Whatever is cut
// in the middle ends there, with nothing made of the rest of a character: see uncut.
func text(s string) string {
	const most = 64 << 10
	if len(s) > most {
		end := most
		for end > most-utf8.UTFMax && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end] + cutMark
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// uncut applies f to a text without its mark: for redaction, which has to take the begin of a
// secret for one where the text ends.
func uncut(s string, f func(string) string) string {
	whole, cut := strings.CutSuffix(s, cutMark)
	if !cut {
		return f(s)
	}
	return f(whole) + cutMark
}
