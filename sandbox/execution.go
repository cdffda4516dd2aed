package sandbox

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
)

// killTimeout bounds how long killing may take before the sandbox counts as lost, as it does
// when the runner has said nothing for killPatience, and then nothing to another call.
const (
	killTimeout  = time.Minute
	killPatience = 10 * time.Second
)

// writePatience is how long a Write of output may last once nobody waits for the exec's end.
const writePatience = 10 * time.Second

// maxAnswer bounds the encoded answer of a guest step.
const maxAnswer = rpc.MaxMessage

// An execution is one exec of the runner, followed to its end, over as many
// connections as it takes.
type execution struct {
	sb             *Sandbox
	name           string
	req            *rpc.ExecRequest
	stdin          *input // nil: none
	stdout, stderr io.Writer
	tail           *Tail // of what goes to stderr, which may be left behind; may be nil

	sent       [2]int64 // bytes of each stream that were passed on
	whole, gap bool     // output must not be left out, and was

	answer     []byte
	answerLost bool
	beat       func([]byte) // of a guest step; may be nil, as the next two
	entry      func(n int64, stream string, payload []byte) error
	progress   func(name string, value []byte)
	receipts   int64 // bytes of receipts that it was given

	started  chan struct{} // closed when it was seen to run
	ended    chan struct{}
	err      error
	writeErr error
	giveUp   chan struct{} // closed when a Write is to be waited for no more
	givesUp  sync.Once
	why      error // it was closed
	gaveUp   bool  // on one, and so on all that would follow it
	feeding  sync.WaitGroup
	readErr  error // of the reader of its input, as inputErr set before feeding is done
	inputErr error // its input could not be given, and it was killed
	killing  sync.WaitGroup

	stop     context.CancelFunc // the following
	detached atomic.Bool

	usage   Usage
	limited bool         // its time is that of Limits
	given   atomic.Int64 // the input that it had when it was attached to
}

// start returns when the process runs, or failed to.
func (x *execution) start(ctx context.Context) error {
	x.started, x.ended, x.giveUp = make(chan struct{}), make(chan struct{}), make(chan struct{})
	stream, stop := context.WithCancel(context.WithoutCancel(ctx))
	x.stop = stop
	if ctx.Err() != nil { // nothing has run
		stop()
		x.err = context.Cause(ctx)
		close(x.ended)
		return x.err
	}
	if most := x.sb.enforce.Limits.Time; most > 0 && (x.req.TimeoutNs == 0 || int64(most) < x.req.TimeoutNs) {
		x.req.TimeoutNs, x.limited = int64(most), true
	}

	// The stream outlives ctx: it brings the end after the kill.
	span := x.span(ctx)
	go func() {
		defer close(x.ended)
		defer stop()
		defer func() {
			if x.err != nil {
				span.SetStatus(codes.Error, x.err.Error())
			}
			span.End()
		}()
		follow := x.follow
		if x.sb.invoker != nil {
			follow = x.invoke
		}
		x.err = follow(ctx, stream, sync.OnceFunc(func() {
			close(x.started)
			if x.stdin != nil && x.sb.invoker == nil {
				x.feeding.Go(func() { x.feed(stream) })
			}
		}))
		stop()
		x.feeding.Wait()
		if x.detached.Load() && (x.err == nil || errors.Is(x.err, ErrLost)) {
			x.err = ErrDetached
			if x.stdin != nil {
				x.usage.Stdin = x.stdin.offset
				x.sb.keepInput(x.req.Id, x.stdin)
			}
		}
		x.err = x.withInput(x.err)
		if x.sb.done != nil {
			x.sb.done(x.name, x.usage, x.err)
		}
	}()
	x.killing.Go(func() {
		select {
		case <-x.ended:
		case <-ctx.Done():
			if x.detached.Load() {
				return
			}
			if errors.Is(context.Cause(ctx), ErrDetached) {
				x.detached.Store(true)
				stop()
				x.settle(context.Cause(ctx))
				return
			}
			if err := x.kill(ctx, stream); err != nil {
				stop() // nothing can be said about it any more
				x.settle(context.Cause(ctx))
				if x.sb.invoker == nil && errors.Is(x.err, ErrLost) {
					x.sb.Leave() // it may run on in there
				}
				return
			}
			x.settle(context.Cause(ctx))
		}
	})
	select {
	case <-x.started:
		return nil
	case <-x.ended:
		x.killing.Wait()
		select {
		case <-x.started:
			return nil // for wait to say
		default:
		}
		if x.err == nil { // over before it was seen to start
			return nil
		}
		var ee *ExitError
		if errors.As(x.err, &ee) {
			return nil // for wait to return
		}
		return x.err
	}
}

// span begins the exec's span, with the provider of the span that ctx carries.
func (x *execution) span(ctx context.Context) trace.Span {
	tracer := trace.SpanFromContext(ctx).TracerProvider().Tracer("github.com/stepward/stepward")
	_, span := tracer.Start(ctx, "stepward.exec", trace.WithAttributes(attribute.String("stepward.command", x.name)))
	return span
}

func (x *execution) wait() error {
	<-x.ended
	x.killing.Wait()
	if x.err == nil {
		return x.writeErr
	}
	return x.err
}

// detach stops following.
func (x *execution) detach() error {
	x.detached.Store(true)
	x.stop()
	x.settle(ErrDetached)
	x.killing.Wait()
	if errors.Is(x.err, ErrDetached) {
		return nil
	}
	return x.err // it was over
}

// settle waits for what is left to do when the exec is over. A Write cannot be
// interrupted: one that lasts is left behind, as a Read of input is.
func (x *execution) settle(why error) {
	late := time.NewTimer(writePatience)
	defer late.Stop()
	select {
	case <-x.ended:
	case <-late.C:
		x.givesUp.Do(func() { x.why = why; close(x.giveUp) })
		<-x.ended
	}
}

// kill returns when the exec has been killed, or is over. What the runner does not know
// though it was not seen to run is perhaps on its way there, on the other connection: it
// is asked again.
func (x *execution) kill(ended, ctx context.Context) error {
	if x.sb.invoker != nil {
		return x.awaitTimeout(ended)
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		ran := false
		select {
		case <-x.started:
			ran = true
		default:
		}
		c, err := x.sb.control.get(ctx)
		if err != nil {
			return err
		}
		resp, err := askKill(ctx, c, x.req.Id)
		if err != nil || resp.Msg.Found || ran {
			return err
		}
		select {
		case <-x.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// askKill asks for the kill of an exec, and again while the runner, which may have many
// processes to end and little CPU time, is seen to be there.
func askKill(ctx context.Context, c rpcconnect.RunnerClient, id string) (*connect.Response[rpc.KillResponse], error) {
	for {
		ask, cancel := context.WithTimeout(ctx, killPatience)
		resp, err := c.Kill(ask, connect.NewRequest(&rpc.KillRequest{Id: id}))
		cancel()
		if err == nil || connect.CodeOf(err) != connect.CodeDeadlineExceeded && !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return resp, err
		}
		ask, cancel = context.WithTimeout(ctx, killPatience/2)
		_, gone := c.Kill(ask, connect.NewRequest(&rpc.KillRequest{})) // of none
		cancel()
		if gone != nil {
			return nil, err
		}
	}
}

// follow reads events until the end. A broken connection is replaced, and the
// output continues where it stopped.
func (x *execution) follow(ctx, stream context.Context, started func()) error {
	for tries := 0; ; tries++ {
		c, err := x.sb.data.get(stream)
		if err == nil {
			var end *rpc.End
			var progress bool
			end, progress, err = x.attach(stream, c, started)
			if end != nil {
				return x.result(ctx, end)
			}
			if progress {
				tries = 0
			}
		}
		var ce *connect.Error
		if final(err) && errors.As(err, &ce) {
			if err := secretError(x.name, ce); err != nil {
				return err
			}
			err = errors.New(ce.Code().String() + ": " + short(ce.Message()))
			switch ce.Code() {
			case connect.CodeNotFound, connect.CodeAlreadyExists:
				return &CommandError{Command: x.name, Err: fileError(ce)}
			case connect.CodeDataLoss:
				return fmt.Errorf("%w: %s: %w", ErrLost, x.name, err)
			}
			return fmt.Errorf("sandbox: %s: %w", x.name, err)
		}
		if tries == 2 || stream.Err() != nil || errors.Is(err, ErrLost) {
			if err == nil {
				err = errors.New("its events ended without an end event")
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%w: %s: %w (%w)", ErrLost, x.name, context.Cause(ctx), err)
			}
			return fmt.Errorf("%w: %s: %w", ErrLost, x.name, err)
		}
	}
}

// attach follows the exec over one connection.
func (x *execution) attach(ctx context.Context, c rpcconnect.RunnerClient, started func()) (end *rpc.End, progress bool, err error) {
	events, err := c.Exec(ctx, connect.NewRequest(x.req))
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = events.Close() }()
	for events.Receive() {
		progress = true
		switch ev := events.Msg().Event.(type) {
		case *rpc.ExecEvent_Started:
			if x.req.Attach {
				x.given.CompareAndSwap(0, ev.Started.GetStdinOffset())
			}
			x.receipts = max(x.receipts, ev.Started.GetStdinOffset())
			started()
		case *rpc.ExecEvent_Output:
			x.output(ctx, ev.Output)
		case *rpc.ExecEvent_End:
			return ev.End, true, nil
		}
	}
	return nil, progress, events.Err()
}

func (x *execution) output(ctx context.Context, o *rpc.Output) {
	if x.gaveUp && o.Stream != rpc.Output_ANSWER {
		return
	}
	next := o.Offset + int64(len(o.Data))
	var w io.Writer
	switch o.Stream {
	case rpc.Output_STDOUT:
		w, x.req.StdoutOffset, x.usage.Stdout = x.stdout, next, next
	case rpc.Output_STDERR:
		w, x.req.StderrOffset, x.usage.Stderr = x.stderr, next, next
	case rpc.Output_ANSWER:
		// What is gone ended where something in front of the answer does.
		x.answerLost = x.answerLost || o.Truncated > 0 && len(x.answer) > 0 || len(x.answer)+len(o.Data) > maxAnswer
		if !x.answerLost {
			x.answer = append(x.answer, o.Data...)
			x.early(ctx)
		}
		x.req.AnswerOffset = next
		return
	}
	x.usage.Truncated += max(o.Truncated, 0)
	x.gap = x.gap || x.whole && w != nil && o.Truncated > 0
	if x.gap {
		return
	}
	if o.Truncated > 0 && w != nil && x.writeErr == nil {
		x.writeErr = x.write(w, o, fmt.Appendf(nil, "\n[%d bytes of output are left out]\n", o.Truncated))
	}
	if w == nil || x.writeErr != nil {
		return // as a pipe whose reader has gone, but without a signal
	}
	if x.sent[o.Stream] += int64(len(o.Data)); x.req.MaxOutput > 0 && x.sent[o.Stream] > x.req.MaxOutput {
		x.writeErr = fmt.Errorf("sandbox: %s: %w", x.name, errForged)
		return
	}
	x.writeErr = x.write(w, o, o.Data)
}

// write passes something of o on. When it gives up, o counts as not read: a Write that
// returns later may have taken some.
func (x *execution) write(w io.Writer, o *rpc.Output, data []byte) error {
	if x.tail != nil && o.Stream == rpc.Output_STDERR {
		_, _ = x.tail.Write(data)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := w.Write(data)
		wrote <- err
	}()
	select {
	case err := <-wrote:
		return err
	case <-x.giveUp:
	}
	x.gaveUp = true
	if o.Stream == rpc.Output_STDOUT {
		x.usage.Stdout = o.Offset
	} else {
		x.usage.Stderr = o.Offset
	}
	return fmt.Errorf("sandbox: %s: a Write of its output does not return: %w", x.name, x.why)
}

// early takes heartbeats, and what a guest shows, off the front of an answer. An
// answer is the encodings of GuestAnswers one after the other, so that a guest
// without those needs no framing; those in front hold details, or shown, alone.
func (x *execution) early(ctx context.Context) {
	for {
		field, kind, n := protowire.ConsumeTag(x.answer)
		if n < 0 || field != rpc.DetailsField && field != rpc.ShownField || kind != protowire.BytesType {
			return
		}
		content, m := protowire.ConsumeBytes(x.answer[n:])
		if m < 0 {
			return // the rest is under way
		}
		x.answer = x.answer[n+m:]
		switch {
		case field == rpc.ShownField:
			x.shown(ctx, content)
		case x.beat != nil && len(content) <= rpc.MaxDetails:
			x.beat(bytes.Clone(content))
		}
	}
}

// shown passes on what a guest shows. It waits for an entry to be durable, which
// holds up a guest that does not.
func (x *execution) shown(ctx context.Context, raw []byte) {
	var s rpc.GuestShown
	switch err := proto.Unmarshal(raw, &s); {
	case x.req.Guest == nil || err != nil:
	case s.Entry == 0:
		if x.progress != nil && len(s.Value) <= rpc.MaxDetails {
			x.progress(s.Name, s.Value)
		}
	default:
		r := &rpc.GuestReceipt{Entry: s.Entry}
		switch {
		case x.entry == nil:
			r.Error = "nobody takes entries of streams here"
		case len(s.Value) > rpc.MaxDetails:
			r.Error = fmt.Sprintf("an entry of %d bytes, the limit is %d", len(s.Value), rpc.MaxDetails)
		default:
			err := x.entry(s.Entry, s.Name, s.Value)
			if errors.Is(err, ErrDetached) {
				return // who goes on with the call is asked again, and answers
			}
			if err != nil {
				r.Error = strings.ToValidUTF8(cmp.Or(err.Error(), "refused"), "\uFFFD")
			}
		}
		x.receipt(ctx, r)
	}
}

// receipt answers an entry. What cannot be delivered has no reader: the sandbox is
// lost.
func (x *execution) receipt(ctx context.Context, r *rpc.GuestReceipt) {
	var raw bytes.Buffer
	if _, err := protodelim.MarshalTo(&raw, r); err != nil {
		return
	}
	for range 3 { // as follow does
		c, err := x.sb.data.get(ctx)
		if err == nil {
			_, err = c.Input(ctx, connect.NewRequest(&rpc.InputRequest{Id: x.req.Id, Offset: x.receipts, Data: raw.Bytes()}))
		}
		if err == nil {
			x.receipts += int64(raw.Len())
			return
		}
	}
}

// result turns the end event into what the caller gets.
func (x *execution) result(ctx context.Context, end *rpc.End) error {
	u := end.GetUsage()
	x.usage.CPU, x.usage.Memory, x.usage.Wall = time.Duration(u.GetCpuNs()), u.GetMaxMemory(), time.Duration(u.GetWallNs())
	x.usage.Stdin = u.GetStdin()
	switch {
	case end.StartError != "":
		return &CommandError{Command: x.name, Err: startError(end)}
	case x.gap:
		return fmt.Errorf("%w: %s: the beginning of its output is not there any more", ErrLost, x.name)
	case end.Lost:
		return fmt.Errorf("%w: %s: how it ended is unknown", ErrLost, x.name)
	case end.Code == 0 && end.Signal == "":
		return nil
	}
	ee := &ExitError{Command: x.name, Code: int(end.Code), Signal: short(end.Signal)}
	switch {
	case end.TimedOut:
		ee.Err, ee.TimedOut = context.DeadlineExceeded, true
		if x.limited {
			ee.Limit, ee.limit = "Time", x.sb.enforce.Limits.Time.String()+" of"
		}
	case end.Killed && ctx.Err() != nil:
		ee.Err = context.Cause(ctx)
		ee.TimedOut = errors.Is(ctx.Err(), context.DeadlineExceeded)
	default:
		ee.Limit, ee.limit = x.sb.limit(end.Limit)
	}
	return ee
}

// Numbers of errors of Linux, on which a sandbox is; the worker's own system may have
// others.
const (
	linuxENOENT  = 2
	linuxEAGAIN  = 11
	linuxEACCES  = 13
	linuxENOTSUP = 95
)

func startError(end *rpc.End) error {
	said := short(end.StartError)
	switch end.StartErrno {
	case linuxENOENT:
		return fmt.Errorf("%w (%s)", fs.ErrNotExist, said)
	case linuxEACCES:
		return fmt.Errorf("%w (%s)", fs.ErrPermission, said)
	case linuxENOTSUP:
		return fmt.Errorf("%w (%s)", errors.ErrUnsupported, said)
	case linuxEAGAIN:
		return fmt.Errorf("the sandbox has as many processes as it may (Limits.PIDs): %s", said)
	default:
		return errors.New(said)
	}
}
