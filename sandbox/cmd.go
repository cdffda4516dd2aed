package sandbox

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/internal/rpc"
)

// A Cmd is a command to run in a sandbox. It reads like [os/exec.Cmd]: set the
// fields, then call one of Run, Output, CombinedOutput or Start, once.
type Cmd struct {
	Name string   // looked up in the sandbox's PATH if it has no slash
	Args []string // without the name

	// Dir is the working directory. Defaults to [Workspace], from where a relative one is named.
	Dir string

	// Env is the environment on top of the Spec's: "KEY=value".
	Env []string

	// Secrets names what the command gets as variables beside Env, of the secrets that
	// were brought into the sandbox: those that Name may have, by the program that it
	// turns out to be. No other command sees them. What may not be had is an
	// [ErrSecret], and the command is not started; nor is it with a variable, in Env or the Spec's, by which programs execute, load or trust
	// something, as LD_PRELOAD, NODE_OPTIONS or GIT_SSH_COMMAND: say it with an argument. PATH may name directories
	// that nothing in the sandbox can write to.
	Secrets []string

	// Stdin is copied to the command. Nil is an empty file. An error of it ends the
	// input, and is that of a command that succeeds all the same. A Read that blocks
	// when the command has ended is left behind.
	Stdin io.Reader

	// Stdout and Stderr get what the command writes. Nil discards it. A writer
	// that blocks holds up the command, and Wait. Once the context has ended, or Detach
	// was called, a Write gets 10 s more: it is left behind then, and nothing else is
	// written. If they are the same comparable value, one goroutine at a time calls Write.
	Stdout, Stderr io.Writer

	// Terminal, if not nil, makes the command's standard input, output and error a
	// terminal of this size. All that it prints goes to Stdout; Stdin is typed, its
	// end as ^D. An error that is [errors.ErrUnsupported] says that the sandbox's
	// kernel has none that is of use.
	Terminal *Terminal

	// Timeout ends the command like the deadline of a context, also when no worker
	// is connected. Zero means none.
	Timeout time.Duration

	// MaxOutput, if not zero, bounds what is kept of each output stream in bytes, up
	// to 8 MiB. The command is not held up by a reader then. What it writes beyond
	// the first half of MaxOutput arrives when it has ended, and only the last half
	// of that: the middle is left out, a line says so, and [Usage].Truncated has the
	// number of bytes. It is also left out earlier, where the commands of a sandbox
	// would keep more than 32 MiB together, of those that keep most.
	MaxOutput int64

	// ID names the command in its sandbox, for [Sandbox.Attach]: up to 128 printable
	// characters. To start another Cmd of the same ID, Name, Args and Dir starts
	// nothing: it follows the same command, from its first byte. Another command
	// under an ID that is taken is a [CommandError] that is [io/fs.ErrExist].
	// Defaults to one that nobody else would choose.
	ID string

	sb     *Sandbox
	exec   *execution
	attach *rpc.ExecRequest // of Attach
}

// Command returns a command that runs in the sandbox.
func (s *Sandbox) Command(name string, args ...string) *Cmd {
	return &Cmd{Name: name, Args: args, sb: s}
}

// maxOutput is the most that MaxOutput can be: the tool runner holds it.
const maxOutput = 8 << 20

// stderrTail is how much of the standard error goes into an ExitError.
const stderrTail = 64 << 10

// Run runs the command and waits until it and all its descendants have ended.
// When ctx ends first they are killed, and the error is an [ExitError] that
// wraps ctx's. A command that ends without success is an [ExitError], one that
// cannot be started a [CommandError]. When the sandbox is gone the error is
// [ErrLost].
func (c *Cmd) Run(ctx context.Context) error {
	if err := c.Start(ctx); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output. The end of its
// standard error is in the [ExitError] if Stderr is nil.
func (c *Cmd) Output(ctx context.Context) ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("sandbox: Stdout already set")
	}
	var out bytes.Buffer
	c.Stdout = &out
	var tail *Tail
	if c.Stderr == nil {
		tail = &Tail{Limit: stderrTail}
		c.Stderr = tail
	}
	err := c.Run(ctx)
	var ee *ExitError
	if tail != nil && errors.As(err, &ee) {
		ee.Stderr = tail.Bytes()
	}
	return out.Bytes(), err
}

// CombinedOutput runs the command and returns its standard output and standard
// error in the order in which they arrived.
func (c *Cmd) CombinedOutput(ctx context.Context) ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("sandbox: Stdout or Stderr already set")
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run(ctx)
	return out.Bytes(), err
}

// Start starts the command and returns when it runs. It goes on until it ends
// or ctx does. [Cmd.Wait] must be called.
func (c *Cmd) Start(ctx context.Context) error {
	if c.exec != nil {
		return errors.New("sandbox: command was started already")
	}
	if err := c.checkID(); err != nil {
		return err
	}
	if err := c.needsLink(); err != nil {
		return err
	}
	if c.attach != nil {
		c.attach.Id, c.attach.Stdin = c.ID, c.Stdin != nil
		c.exec = &execution{sb: c.sb, name: "command " + c.ID, stdin: c.sb.takeInput(c.ID, c.Stdin), stdout: c.Stdout, stderr: c.Stderr, req: c.attach}
		return c.exec.start(ctx)
	}
	if c.Name == "" {
		return errors.New("sandbox: command without a name")
	}
	if c.MaxOutput < 0 || c.MaxOutput > maxOutput {
		return fmt.Errorf("sandbox: MaxOutput of %s is %d, not between 0 and %d", c.Name, c.MaxOutput, int64(maxOutput))
	}
	if c.Timeout < 0 {
		return fmt.Errorf("sandbox: Timeout of %s is negative: %v", c.Name, c.Timeout)
	}
	c.sb.claimed.Store(true)
	again := c.ID == "" && c.Stdin == nil && c.sb.issued != nil && c.sb.invoker == nil
	if again {
		c.ID = c.sb.issued.id(c)
	}
	named := c.ID != ""
	if !named {
		c.ID = c.sb.nextExec()
	}
	env := append(c.sb.environ(), c.Env...)
	if err := c.check(env); err != nil {
		return err
	}
	x := &execution{
		sb: c.sb, name: c.Name, stdin: c.sb.takeInput(c.ID, c.Stdin), stdout: c.Stdout, stderr: c.Stderr, whole: again && c.MaxOutput == 0,
		req: &rpc.ExecRequest{
			Id: c.ID, Named: named, Name: c.Name, Args: c.Args, Dir: c.Dir,
			Env: env, Secrets: c.Secrets, Stdin: c.Stdin != nil, Terminal: c.Terminal.wire(),
			DiscardStdout: c.Stdout == nil && !named, DiscardStderr: c.Stderr == nil && !named,
			TimeoutNs: int64(c.Timeout), MaxOutput: c.MaxOutput,
		},
	}
	c.exec = x
	return x.start(ctx)
}

// check refuses what cannot be sent. It never shows the value of a variable.
func (c *Cmd) check(env []string) error {
	valid := func(s, format string, a ...any) error {
		var why string
		switch {
		case !utf8.ValidString(s):
			why = "is not UTF-8"
		case strings.ContainsRune(s, 0):
			why = "has a NUL byte"
		default:
			return nil
		}
		return c.refused(fmt.Sprintf(format, a...) + " " + why)
	}
	err := cmp.Or(valid(c.Name, "the name"), valid(c.Dir, "the working directory"))
	for i, arg := range c.Args {
		err = cmp.Or(err, valid(arg, "argument %d", i+1))
	}
	for _, name := range c.Secrets {
		err = cmp.Or(err, valid(name, "the name of a secret"))
	}
	for i, kv := range env {
		key, _, ok := strings.Cut(kv, "=")
		err = cmp.Or(err, valid(kv, "variable %s", strings.ToValidUTF8(key, "\uFFFD")))
		if err == nil && (key == "" || !ok) {
			err = c.refused(fmt.Sprintf("variable %d is not KEY=value", i+1-(len(env)-len(c.Env))))
		}
	}
	return err
}

func (c *Cmd) refused(why string) error {
	return &CommandError{Command: strings.ToValidUTF8(c.Name, "\uFFFD"), Err: fmt.Errorf("%s: %w", why, fs.ErrInvalid)}
}

// Wait waits for a command that was started, as [Cmd.Run] does.
func (c *Cmd) Wait() error {
	if c.exec == nil {
		return errors.New("sandbox: command was not started")
	}
	return c.exec.wait()
}

// nextExec returns an id that no other worker would choose.
func (s *Sandbox) nextExec() string {
	s.claimed.Store(true)
	return fmt.Sprintf("%d-%s", s.execs.Add(1), randomHex(6))
}

// environ is the Spec's environment.
func (s *Sandbox) environ() []string {
	var env []string
	for k, v := range s.spec.Env {
		env = append(env, k+"="+v)
	}
	slices.Sort(env)
	return env
}

// A Tail is a writer that keeps the last Limit bytes.
type Tail struct {
	Limit int
	buf   []byte
}

// Write keeps the end of p. It never fails.
func (t *Tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) >= t.Limit {
		t.buf = append(t.buf[:0], p[len(p)-t.Limit:]...)
		return n, nil
	}
	if len(t.buf)+len(p) > 2*t.Limit {
		t.buf = append(t.buf[:0], t.Bytes()...)
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// Bytes returns what is kept. It is valid until the next Write.
func (t *Tail) Bytes() []byte { return t.buf[max(0, len(t.buf)-t.Limit):] }

// GuestStep is one call of a step's function inside the sandbox.
type GuestStep struct {
	// ID names the call in its sandbox, as Cmd.ID does a command: another call of
	// the same ID, by any process, starts nothing; it follows the same call, from
	// its first byte. Heartbeats, values and entries of the time before come again
	// then, but for the oldest beyond 1 MiB. Defaults to one that nobody else would
	// choose.
	ID string

	Workflow, Version, Step string
	RunID                   string
	Attempt                 int
	IdempotencyKey          string
	Input                   []byte

	// Timeout becomes the deadline of the function's context. It does not kill:
	// the deadline of the context given to [Sandbox.Guest] does. 0 is none.
	Timeout time.Duration

	// Details is what an earlier attempt reported last. Beat, if not nil, is called
	// with what this one reports, no more often than BeatEvery.
	Details   []byte
	Beat      func(details []byte)
	BeatEvery time.Duration

	// Append takes an entry of a stream, which the function waits for, and whose
	// error it gets, unless that is ErrDetached: then it goes on waiting, for another
	// process. n is a number that no other entry of the call has, from 1.
	// Progress takes a value, now and then. Both are called by one
	// goroutine, with at most 64 KiB, and hold up what else the function's process
	// has to say. The process need not be what it was: names and values are any.
	// Nil refuses entries, and drops values.
	Append   func(n int64, stream string, payload []byte) error
	Progress func(name string, value []byte)

	// Stdout and Stderr get what the function's process prints; [Tail] keeps
	// just the end. Nil discards it.
	Stdout, Stderr io.Writer
}

// Guest runs a guest step and returns its output. An error that the function
// returned, and a panic in it, is a [GuestError]. A process that ended without
// an answer, or was killed because ctx ended, is an [ExitError]. When the
// sandbox is gone the error is [ErrLost]. When the cause of ctx's end wraps
// [ErrDetached], the call is left running, and that is the error.
func (s *Sandbox) Guest(ctx context.Context, g GuestStep) ([]byte, error) {
	tail, stderr := &Tail{Limit: stderrTail}, g.Stderr
	if stderr == nil {
		stderr = io.Discard
	}
	named := g.ID != ""
	c := &Cmd{ID: g.ID, sb: s}
	if err := cmp.Or(c.checkID(), c.needsLink()); err != nil {
		return nil, err
	}
	x := &execution{
		sb: s, beat: g.Beat, entry: g.Append, progress: g.Progress, name: "guest step " + g.Step, stdout: g.Stdout, stderr: stderr, tail: tail,
		req: &rpc.ExecRequest{
			Id: cmp.Or(g.ID, s.nextExec()), Named: named, Env: s.environ(), DiscardStdout: g.Stdout == nil,
			Guest: &rpc.GuestCall{
				Workflow: g.Workflow, Version: g.Version, Step: g.Step, RunId: g.RunID, Attempt: int32(g.Attempt),
				IdempotencyKey: g.IdempotencyKey, Input: g.Input, TimeoutNs: int64(g.Timeout),
				Details: g.Details, BeatEveryNs: int64(g.BeatEvery),
			},
		},
	}
	if s.invoker != nil {
		x.req.MaxOutput = 2 * stderrTail // what it prints must not use up what an invocation may return
	}
	if proto.Size(x.req) > rpc.MaxMessage {
		return nil, fmt.Errorf("sandbox: input of guest step %s is over %d bytes", g.Step, rpc.MaxMessage)
	}
	err := x.start(ctx)
	if err == nil {
		err = x.wait()
	}
	var ee *ExitError
	if errors.As(err, &ee) {
		ee.Stderr = tail.Bytes()
	}
	if err != nil {
		return nil, err
	}
	var a rpc.GuestAnswer
	if x.answerLost {
		return nil, fmt.Errorf("%w: the answer of guest step %s is not there any more", ErrLost, g.Step)
	}
	if err := proto.Unmarshal(x.answer, &a); err != nil || !a.Done {
		return nil, &ExitError{Command: x.name, Stderr: tail.Bytes(), NoAnswer: true}
	}
	if f := a.Failure; f != nil {
		return nil, &GuestError{
			Message: f.Message, Type: f.Type, Stack: f.Stack, Panic: f.Panic,
			Permanent: f.Permanent, RetryAfter: time.Duration(f.RetryAfterNs),
		}
	}
	return a.Output, nil
}
