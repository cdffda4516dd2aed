package sandboxtest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// testHandle checks what a command can be told and asked while it runs.
func testHandle(t *testing.T, s *sandbox.Sandbox) {
	t.Run("terminal", func(t *testing.T) { testTerminal(t, s) })
	t.Run("signal", func(t *testing.T) { testSignal(t, s) })
	t.Run("timeout", func(t *testing.T) {
		c := s.Command(program, "probe:daemons", "5", "stay")
		c.Timeout = 300 * time.Millisecond
		var ee *sandbox.ExitError
		if err := c.Run(bounded(t)); !errors.As(err, &ee) || !ee.TimedOut || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want an ExitError that timed out", err)
		}
		if n := run(t, s, "count", "probe:hang"); n != "0" {
			t.Errorf("%s processes are left", n)
		}
	})
	t.Run("middle", func(t *testing.T) { testMiddle(t, s) })
	t.Run("bytes", func(t *testing.T) {
		want := []byte("NUL \x00, invalid \xff\xfe\xc3(, title \x1b]0;x\x07, clipboard \x1b]52;c;eA==\x07, clear \x1b[2J, \r\n")
		c := s.Command(program, "probe:cat")
		c.Stdin = bytes.NewReader(want)
		if got, err := c.Output(bounded(t)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("usage", func(t *testing.T) { testUsage(t, s) })
	t.Run("attach", func(t *testing.T) { testAttach(t, s) })
	t.Run("attach with the same input", func(t *testing.T) { testSameInput(t, s) })
	t.Run("refused", func(t *testing.T) {
		for what, c := range map[string]*sandbox.Cmd{
			"a long id": s.Attach(strings.Repeat("x", 129), 0, 0), "an id with a space": s.Attach("a b", 0, 0),
			"no id": s.Attach("", 0, 0), "a negative byte": s.Attach("job", 0, -1),
		} {
			if err := c.Start(bounded(t)); err == nil || strings.Contains(err.Error(), "invalid_argument") {
				t.Errorf("%s: %v, want it refused here", what, err)
			}
		}
		c := s.Command(program)
		c.MaxOutput = 9 << 20
		if err := c.Start(bounded(t)); err == nil || !strings.Contains(err.Error(), "MaxOutput") {
			t.Errorf("MaxOutput of 9 MiB: %v", err)
		}
	})
}

// lines reads what a command prints, a line at a time.
type lines struct {
	*bufio.Scanner
	w *io.PipeWriter
}

func newLines() lines {
	r, w := io.Pipe()
	return lines{bufio.NewScanner(r), w}
}

func (l lines) want(t *testing.T, want string) {
	t.Helper()
	if !l.Scan() || strings.TrimRight(l.Text(), "\r") != want {
		t.Fatalf("it printed %q, not %q", l.Text(), want)
	}
}

func testTerminal(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	c := s.Command(program, "probe:terminal")
	c.Terminal = &sandbox.Terminal{Rows: 24, Cols: 80}
	in, typed := io.Pipe()
	out := newLines()
	c.Stdin, c.Stdout = in, out.w
	if err := c.Start(ctx); isGVisor(s) && errors.Is(err, errors.ErrUnsupported) {
		t.Log(Refused + "Terminal") // gVisor of 2022
		return
	} else if err != nil {
		t.Fatal(err)
	}
	out.want(t, "24x80 xterm-256color <nil>")
	if err := c.Resize(ctx, sandbox.Terminal{Rows: 50, Cols: 132}); err != nil {
		t.Fatal(err)
	}
	out.want(t, "50x132 xterm-256color <nil>")
	fmt.Fprint(typed, "hello\n")
	out.want(t, "hello") // the terminal's echo
	out.want(t, "<hello>")
	fmt.Fprint(typed, "half a line")
	typed.Close() // which ends the line, and then the input
	if !out.Scan() || !strings.HasSuffix(strings.TrimRight(out.Text(), "\r"), "<half a line>") {
		t.Errorf("at the end it printed %q", out.Text())
	}
	out.want(t, "the end")
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	if err := c.Resize(ctx, sandbox.Terminal{Rows: 1, Cols: 1}); err != nil {
		t.Errorf("Resize when it is over: %v", err)
	}

	// ^C is a signal to what runs in the foreground, as is SIGINT.
	for _, interrupt := range []func(c *sandbox.Cmd, typed io.Writer) error{
		func(_ *sandbox.Cmd, typed io.Writer) error { _, err := io.WriteString(typed, "\x03"); return err },
		func(c *sandbox.Cmd, _ io.Writer) error { return c.Signal(ctx, "SIGINT") },
	} {
		c := s.Command(program, "probe:terminal")
		c.Terminal = &sandbox.Terminal{Rows: 24, Cols: 80}
		in, typed := io.Pipe()
		w := newWaiter()
		c.Stdin, c.Stdout = in, w
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		w.wait(t)
		if err := interrupt(c, typed); err != nil {
			t.Error(err)
		}
		var ee *sandbox.ExitError
		if err := c.Wait(); !errors.As(err, &ee) || ee.Signal != "SIGINT" && ee.Code != 2 { // the Go runtime exits by itself
			t.Errorf("interrupted: %v", err)
		}
		typed.Close()
	}
}

func testSignal(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	c := s.Command(program, "probe:trap")
	out := newLines()
	c.Stdout = out.w
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	out.want(t, "ready")
	if err := c.Signal(ctx, "SIGNONE"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a signal that is none: %v", err)
	}
	if err := c.Resize(ctx, sandbox.Terminal{Rows: 1, Cols: 1}); err == nil {
		t.Error("Resize of a command without a terminal succeeded")
	}
	if err := c.Signal(ctx, "SIGUSR1"); err != nil {
		t.Error(err)
	}
	out.want(t, "user defined signal 1")
	var ee *sandbox.ExitError
	if err := c.Wait(); !errors.As(err, &ee) || ee.Code != 4 {
		t.Errorf("after the signal: %v", err)
	}
	if err := c.Signal(ctx, "SIGKILL"); err != nil {
		t.Errorf("a signal when it is over: %v", err)
	}
}

// testMiddle has a command print more than is kept: nothing of it waits for a
// reader, and what is left out is counted exactly.
func testMiddle(t *testing.T, s *sandbox.Sandbox) {
	const n, most = 200_000, 10_000
	var all bytes.Buffer
	for i := range n {
		fmt.Fprintln(&all, i+1)
	}
	var out bytes.Buffer
	c := s.Command(program, "probe:numbers", fmt.Sprint(n))
	c.MaxOutput, c.Stdout = most, &out
	if err := c.Run(bounded(t)); err != nil {
		t.Fatal(err)
	}
	left := all.Len() - most
	want := fmt.Sprintf("%s\n[%d bytes of output are left out]\n%s", all.Bytes()[:most/2], left, all.Bytes()[all.Len()-most/2:])
	if out.String() != want {
		t.Errorf("%d bytes, not the %d of the first and last %d", out.Len(), len(want), most/2)
	}
	if u := c.Usage(); u.Truncated != int64(left) || u.Stdout != int64(all.Len()) {
		t.Errorf("usage %+v, want %d of %d bytes left out", u, left, all.Len())
	}

	// Nobody reads at all: the command ends all the same.
	c = s.Command(program, "probe:print", fmt.Sprint(64<<20))
	c.MaxOutput, c.ID = most, "nobody-reads"
	c.Stdout = io.Discard
	if err := c.Start(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if err := c.Detach(); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	a := s.Attach("nobody-reads", 0, 0)
	a.Stdout = &out
	if err := a.Run(bounded(t)); err != nil {
		t.Error(err)
	}
	if u := a.Usage(); u.Stdout != 64<<20 || u.Truncated != 64<<20-most {
		t.Errorf("usage %+v", u)
	}
}

func testUsage(t *testing.T, s *sandbox.Sandbox) {
	c := s.Command(program, "probe:use", "100ms", fmt.Sprint(48<<20))
	if err := c.Run(bounded(t)); err != nil {
		t.Fatal(err)
	}
	u := c.Usage()
	t.Logf("%+v", u)
	if u.CPU < 100*time.Millisecond || u.Wall <= 0 || u.Memory < 48<<20 || u.Memory > 512<<20 {
		t.Errorf("usage %+v of a child that used 100 ms and 48 MiB", u)
	}
	c = s.Command(program, "probe:cat")
	c.Stdin, c.Stdout = strings.NewReader("12345"), io.Discard
	if err := c.Run(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if u := c.Usage(); u.Stdin != 5 || u.Stdout != 5 || u.Stderr != 0 || u.Truncated != 0 {
		t.Errorf("usage %+v of 5 bytes through cat", u)
	}
}

func testAttach(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	in, input := io.Pipe()
	out := newLines()
	c := s.Command(program, "probe:cat")
	c.ID, c.Stdin, c.Stdout = "job", in, out.w
	began, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.Start(began); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(input, "one")
	out.want(t, "one")
	if err := c.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); !errors.Is(err, sandbox.ErrDetached) {
		t.Errorf("Wait after Detach: %v", err)
	}
	if u := c.Usage(); u.Stdout != 4 {
		t.Errorf("detached at byte %d, not 4", u.Stdout)
	}
	cancel()         // which is the command's end no more
	input.Close()    // nor this
	other := "again" // nor is it started a second time
	c = s.Command(program, "probe:out", other)
	c.ID = "job"
	var ce *sandbox.CommandError
	if err := c.Start(ctx); !errors.As(err, &ce) || !errors.Is(err, fs.ErrExist) {
		t.Errorf("another command of the same id: %v, want a CommandError that is ErrExist", err)
	}

	a := s.Attach("job", 1, 0) // in the middle of what was read
	in, input = io.Pipe()
	out = newLines()
	a.Stdin, a.Stdout = in, out.w
	if err := a.Start(ctx); err != nil {
		t.Fatal(err)
	}
	out.want(t, "ne")
	fmt.Fprintln(input, "two")
	out.want(t, "two")
	input.Close()
	if err := a.Wait(); err != nil {
		t.Errorf("the end of the input, after attaching: %v", err)
	}
	if u := a.Usage(); u.Stdin != 8 || u.Stdout != 8 {
		t.Errorf("usage %+v of 8 bytes", u)
	}

	// It is over, and can still be asked for: also by whoever meant to start it.
	again := s.Command(program, "probe:cat")
	again.ID = "job"
	var got bytes.Buffer
	again.Stdout = &got
	if err := again.Run(ctx); err != nil || got.String() != "one\ntwo\n" {
		t.Errorf("started again: %q, %v", &got, err)
	}
	if err := s.Attach("none", 0, 0).Start(ctx); !errors.As(err, &ce) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a command that the sandbox does not know: %v, want a CommandError that is ErrNotExist", err)
	}
}

// testSameInput detaches from a command while its input is waited for, and goes on with
// the same input: no byte is missing.
func testSameInput(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	in, input := io.Pipe()
	out := newLines()
	c := s.Command(program, "probe:cat")
	c.ID = "same"
	for i := range 3 {
		c.Stdin, c.Stdout = in, out.w
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprint("line ", i)
		fmt.Fprintln(input, line)
		out.want(t, line)
		if err := c.Detach(); err != nil {
			t.Fatal(err)
		}
		if u := c.Usage(); u.Stdin > 7*int64(i+1) || u.Stdin < 7*int64(i) {
			t.Errorf("detached after %d bytes, at %d", 7*(i+1), u.Stdin)
		}
		c = s.Attach("same", c.Usage().Stdout, 0)
	}
	c.Stdin, c.Stdout = in, out.w
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	go func() {
		io.WriteString(input, "the last\n")
		input.Close()
	}()
	out.want(t, "the last")
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	if u := c.Usage(); u.Stdin != 30 || u.Stdout != 30 {
		t.Errorf("usage %+v of 30 bytes", u)
	}
}
