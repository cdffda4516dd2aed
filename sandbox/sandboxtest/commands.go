package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stepward/stepward/sandbox"
)

func testCommand(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	var out, errs bytes.Buffer
	c := s.Command(program, "probe:out", "3", "to out", "to err")
	c.Stdout, c.Stderr = &out, &errs
	var ee *sandbox.ExitError
	if err := c.Run(ctx); !errors.As(err, &ee) || ee.Code != 3 || ee.Signal != "" {
		t.Errorf("exit status 3: got %v", err)
	}
	if out.String() != "to out" || errs.String() != "to err" {
		t.Errorf("stdout %q, stderr %q", &out, &errs)
	}
	if _, err := s.Command(program, "probe:out", "1", "", "why").Output(ctx); !errors.As(err, &ee) || string(ee.Stderr) != "why" {
		t.Errorf("Output keeps the standard error: got %v", err)
	}
	in := bytes.Repeat([]byte("0123456789"), 100_000)
	c = s.Command(program, "probe:cat")
	c.Stdin = bytes.NewReader(in)
	if got, err := c.Output(ctx); err != nil || !bytes.Equal(got, in) {
		t.Errorf("stdin of 1 MB: %d bytes back, %v", len(got), err)
	}
	c = s.Command(program, "probe:cat")
	half := errors.New("the other half is missing")
	c.Stdin = io.MultiReader(strings.NewReader("half"), iotest.ErrReader(half))
	if got, err := c.Output(ctx); !errors.Is(err, half) || string(got) != "half" {
		t.Errorf("a Stdin that fails: %q, %v", got, err)
	}
	over, cancel := context.WithCancelCause(ctx)
	cancel(half)
	c = s.Command(program, "probe:cat")
	c.Stdin = strings.NewReader("")
	if err := c.Start(over); !errors.Is(err, half) {
		t.Errorf("started in a context that is over: %v", err)
	}
	if err := c.Wait(); !errors.Is(err, half) || c.Usage() != (sandbox.Usage{}) {
		t.Errorf("Wait for what was not started: %v, %+v", err, c.Usage())
	}
	if err := c.Detach(); !errors.Is(err, half) {
		t.Errorf("Detach from what was not started: %v", err)
	}
	c = s.Command(program, "probe:env")
	c.Env = []string{"OWN=1", "HOME=/workspace"}
	env, err := c.Output(ctx)
	if err != nil {
		t.Error(err)
	}
	lines := strings.Split(string(env), "\n")
	for _, want := range []string{"SUITE=yes", "OWN=1", "HOME=/workspace", "TMPDIR=/tmp"} {
		if !slices.Contains(lines, want) {
			t.Errorf("environment has no %s: %q", want, lines)
		}
	}
	if strings.Contains(string(env), "STEPWARD_") {
		t.Errorf("environment has variables of the runner: %q", lines)
	}
	if got := run(t, s, "pwd"); got != sandbox.Workspace {
		t.Errorf("working directory %s", got)
	}
	c = s.Command(program, "probe:pwd")
	c.Dir = "/tmp"
	if got, err := c.Output(ctx); err != nil || string(got) != "/tmp" {
		t.Errorf("Dir /tmp: %s, %v", got, err)
	}
	c = s.Command(program, "probe:pwd")
	c.Dir = "." // of what it is in without one
	if got, err := c.Output(ctx); err != nil || string(got) != sandbox.Workspace {
		t.Errorf("Dir .: %s, %v", got, err)
	}
	for _, name := range []string{"no-such-command", "/no/such/command"} {
		var ce *sandbox.CommandError
		if err := s.Command(name).Run(ctx); !errors.As(err, &ce) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, want a CommandError that is ErrNotExist", name, err)
		}
	}
	c = s.Command(program, "probe:pwd")
	c.Dir = "/no/such/dir"
	if err := c.Run(ctx); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	for what, bad := range map[string]*sandbox.Cmd{
		"the name": {Name: "\xff"}, "argument 2": {Name: program, Args: []string{"a", "\xff"}},
		"variable KEY": {Name: program, Env: []string{"KEY=secret\xff"}}, "argument 1 has a NUL byte": {Name: program, Args: []string{"a\x00b"}},
		"variable N has a NUL byte":   {Name: program, Env: []string{"N=secret\x00"}},
		"variable 2 is not KEY=value": {Name: program, Env: []string{"A=b", "secret"}}, "variable 1 is not KEY=value": {Name: program, Env: []string{"=secret"}},
	} {
		c := s.Command(bad.Name, bad.Args...)
		c.Env = bad.Env
		var ce *sandbox.CommandError
		if err := c.Run(ctx); !errors.As(err, &ce) || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q cannot be sent: %v, want a CommandError that says %s", bad.Args, err, what)
		}
	}
	if err := s.WriteFile(ctx, "plain", []byte("x"), 0o644); err != nil {
		t.Error(err)
	}
	if err := s.Command("/workspace/plain").Run(ctx); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("file that is not executable: %v", err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			want := fmt.Sprint("number ", i)
			if out, err := s.Command(program, "probe:out", "0", want, "").Output(ctx); err != nil || string(out) != want {
				t.Errorf("concurrent command: %q, %v", out, err)
			}
		})
	}
	wg.Wait()
}
