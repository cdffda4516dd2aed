package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/sandbox"
)

// The bars of what is done with a live sandbox: milliseconds, times the peer.
const (
	barKill    = 50
	barKillP99 = 250
	barTree    = 2
)

// trees are what killed commands have started. Each says that it is there, and is
// left alone for a while.
var trees = []struct {
	name, script string
	grow         time.Duration
}{
	{"one process that ignores SIGTERM", "trap '' TERM; echo there; while :; do sleep 60; done", 0},
	{"50 daemons in sessions of their own", `trap '' TERM; for i in $(seq 50); do (setsid sleep 600 &); done; echo there; sleep 600`, 0},
	{"a fork bomb of 200", `trap '' TERM; bash -c 'b() { b | b & }; b; exec sleep 600' 2>/dev/null & echo there; exec sleep 600`, 200 * time.Millisecond},
}

// benchKill times from the end of a command's context until nothing is left of it.
func (b *bench) benchKill(ctx context.Context, backend sandbox.Backend, n int) error {
	s, err := sandbox.Start(ctx, backend, sandbox.Options{Spec: sandbox.Spec{Limits: sandbox.Limits{PIDs: 200}}})
	if err != nil {
		return err
	}
	defer func() { _ = s.Destroy(context.WithoutCancel(ctx)) }()
	var all []time.Duration
	for _, tree := range trees {
		var took []time.Duration
		for range n {
			d, err := kill(ctx, s, tree.script, tree.grow)
			if err != nil {
				return fmt.Errorf("%s: %w", tree.name, err)
			}
			took = append(took, d)
		}
		b.report.durations("kill of "+tree.name, took, 0.5, 0.99)
		all = append(all, took...)
	}
	b.report.bar("kill, of all of these, p50", measure.Quantile(all, 0.5), "ms", barKill)
	b.report.bar("kill, of all of these, p99", measure.Quantile(all, 0.99), "ms", barKillP99)
	return nil
}

func kill(ctx context.Context, s *sandbox.Sandbox, script string, grow time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	there := make(chan struct{})
	c := s.Command("sh", "-c", script)
	once := sync.OnceFunc(func() { close(there) })
	c.Stdout = writerFunc(func(p []byte) (int, error) { once(); return len(p), nil })
	if err := c.Start(ctx); err != nil {
		return 0, err
	}
	<-there
	time.Sleep(grow)
	begin := time.Now()
	cancel()
	err := c.Wait()
	took := time.Since(begin)
	var ee *sandbox.ExitError
	if !errors.As(err, &ee) {
		return 0, errors.Join(errors.New("it ended by itself"), err)
	}
	return took, nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// benchTree copies 100 MiB of files into a sandbox and out of it, in turn with tar
// over a pipe between two directories.
func (b *bench) benchTree(ctx context.Context, backend sandbox.Backend, n int) error {
	dir, err := os.MkdirTemp("", "stepward-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	src := filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		return err
	}
	data := bytes.Repeat([]byte("a tree of files\n"), 1<<16)
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint(i)), data, 0o600); err != nil {
			return err
		}
	}
	s, err := sandbox.Start(ctx, backend, sandbox.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = s.Destroy(context.WithoutCancel(ctx)) }()
	var up, down, peer []time.Duration
	for i := range n {
		to := filepath.Join(dir, fmt.Sprint("to", i))
		for _, part := range []struct {
			took *[]time.Duration
			do   func() error
		}{
			{&up, func() error { return s.Upload(ctx, os.DirFS(src), "tree") }},
			{&down, func() error { return s.Download(ctx, "tree", to, sandbox.DownloadOptions{}) }},
			{&peer, func() error {
				return exec.CommandContext(ctx, "sh", "-c", `mkdir "$2" && tar -C "$1" -cf - . | tar -C "$2" -xf -`, "sh", src, to+"-peer").Run()
			}},
		} {
			begin := time.Now()
			if err := part.do(); err != nil {
				return err
			}
			*part.took = append(*part.took, time.Since(begin))
		}
		if err := errors.Join(os.RemoveAll(to), os.RemoveAll(to+"-peer")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	b.report.durations("tar over a pipe, 100 files of 1 MiB", peer, 0.5)
	least := measure.Quantile(peer, 0.5)
	b.report.bar("upload of the same, times tar, p50", measure.Quantile(up, 0.5)/least, "x", barTree)
	b.report.bar("download of the same, times tar, p50", measure.Quantile(down, 0.5)/least, "x", barTree)
	return nil
}
