// Package trees has processes that are hard to end, for benchmarks of how long that takes.
package trees

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// A Tree is what a command starts.
type Tree struct {
	Name string

	args []string
	grow time.Duration // from when it says that it is there
}

// PIDs is the limit of a sandbox that a fork bomb meets: the one that backends have for a Spec
// without one.
const PIDs = 512

// All are the trees. The bomb is the last one.
var All = []Tree{
	{"one process that ignores SIGTERM", []string{"one"}, 0},
	{"50 daemons in sessions of their own", []string{"daemons", "50"}, 0},
	{fmt.Sprintf("a fork bomb of %d", PIDs), []string{"bomb"}, 500 * time.Millisecond},
}

// Path is the program in a sandbox. Without an argument it does nothing.
const Path = "/workspace/tree"

// Build builds the program into a directory: for images that have none.
func Build(ctx context.Context, dir string) (path string, err error) {
	path = filepath.Join(dir, "tree")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "github.com/stepward/stepward/internal/bench/trees/tree")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program of trees: %w: %s", err, out)
	}
	return path, nil
}

// Put brings the program into a sandbox.
func Put(ctx context.Context, s *sandbox.Sandbox) error {
	dir, err := os.MkdirTemp("", "stepward-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path, err := Build(ctx, dir)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return s.WriteFile(ctx, filepath.Base(path), data, 0o755)
}

// Kill starts the tree where the program is, and returns how long it is from the end of the
// command's context until nothing is left of it.
func (t Tree) Kill(ctx context.Context, s *sandbox.Sandbox) (time.Duration, error) {
	end, err := t.plant(ctx, s)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", t.Name, err)
	}
	begin := time.Now()
	err = end()
	took := time.Since(begin)
	if ee := (*sandbox.ExitError)(nil); !errors.As(err, &ee) || !errors.Is(err, context.Canceled) {
		return 0, fmt.Errorf("%s: %w", t.Name, errors.Join(errors.New("it ended by itself"), err))
	}
	return took, nil
}

// plant returns when the tree is there. Its end has to be called, whose error is the command's.
func (t Tree) plant(ctx context.Context, s *sandbox.Sandbox) (end func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	there := make(chan struct{})
	c := s.Command(Path, t.args...)
	once := sync.OnceFunc(func() { close(there) })
	c.Stdout = writerFunc(func(p []byte) (int, error) { once(); return len(p), nil })
	if err := c.Start(ctx); err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case <-there:
	case err := <-ended:
		cancel()
		return nil, errors.Join(errors.New("it ended before it was there"), err)
	}
	time.Sleep(t.grow)
	return func() error { cancel(); return <-ended }, nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
