package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/bench/trees"
	"github.com/stepward/stepward/sandbox"
)

// The bars of what is done with a live sandbox: milliseconds, times the peer.
const (
	barKill    = 50
	barKillP99 = 250
	barTree    = 2
)

// benchKill times from the end of a command's context until nothing is left of it. Of a
// bar of zero there is none.
func (b *bench) benchKill(ctx context.Context, name string, backend sandbox.Backend, pids int, of []trees.Tree, n int, barP50, barP99 float64) error {
	s, err := sandbox.Start(ctx, backend, sandbox.Options{Spec: sandbox.Spec{Limits: sandbox.Limits{PIDs: pids}}})
	if err != nil {
		return err
	}
	defer func() { _ = s.Destroy(context.WithoutCancel(ctx)) }()
	if err := trees.Put(ctx, s); err != nil {
		return err
	}
	var all []time.Duration
	for _, tree := range of {
		var took []time.Duration
		for range n {
			d, err := tree.Kill(ctx, s)
			if err != nil {
				return err
			}
			took = append(took, d)
		}
		b.report.durations(name+": kill of "+tree.Name, took, 0.5, 0.99)
		all = append(all, took...)
	}
	b.report.bar(name+": kill, of all of these, p50", measure.Quantile(all, 0.5), "ms", barP50)
	b.report.bar(name+": kill, of all of these, p99", measure.Quantile(all, 0.99), "ms", barP99)
	return nil
}

// A copier copies a tree of files to a place that is new, and from there to a directory that does not exist.
type copier struct {
	up, down func(dir string) error
	end      func() error
}

// tarPipe copies between two directories, below a third.
func tarPipe(ctx context.Context, scratch string) (copier, error) {
	do := func(from, to string) error {
		return exec.CommandContext(ctx, "sh", "-c", `mkdir "$2" && tar -C "$1" -cf - . | tar -C "$2" -xf -`, "sh", from, to).Run()
	}
	at := filepath.Join(scratch, "peer")
	return copier{
		func(dir string) error { return do(dir, at) },
		func(dir string) error { return do(at, dir) },
		func() error { return os.RemoveAll(at) },
	}, nil
}

// sandboxed copies to a sandbox.
func sandboxed(ctx context.Context, backend sandbox.Backend) (copier, error) {
	s, err := sandbox.Start(ctx, backend, sandbox.Options{})
	if err != nil {
		return copier{}, err
	}
	return copier{
		func(dir string) error { return s.Upload(ctx, os.DirFS(dir), "tree") },
		func(dir string) error { return s.Download(ctx, "tree", dir, sandbox.DownloadOptions{}) },
		func() error { return s.Destroy(context.WithoutCancel(ctx)) },
	}, nil
}

// benchTree copies 100 MiB of files into sandboxes and out of them, in turn with another way.
func (b *bench) benchTree(ctx context.Context, name string, backend sandbox.Backend, peerName string, peer func(ctx context.Context, scratch string) (copier, error), n int) error {
	scratch, err := os.MkdirTemp("", "stepward-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	src := filepath.Join(scratch, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		return err
	}
	data := bytes.Repeat([]byte("a tree of files\n"), 1<<16)
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint(i)), data, 0o600); err != nil {
			return err
		}
	}
	var up, down, peerUp, peerDown []time.Duration
	once := func(up, down *[]time.Duration, c copier, err error) error {
		if err != nil {
			return err
		}
		begin := time.Now()
		if err := c.up(src); err != nil {
			return errors.Join(err, c.end())
		}
		middle, to := time.Now(), filepath.Join(scratch, "to")
		err = c.down(to)
		*up, *down = append(*up, middle.Sub(begin)), append(*down, time.Since(middle))
		if err == nil {
			_, err = os.Stat(filepath.Join(to, "99"))
		}
		return errors.Join(err, c.end(), os.RemoveAll(to))
	}
	for range n {
		c, err := sandboxed(ctx, backend)
		if err := once(&up, &down, c, err); err != nil {
			return err
		}
		c, err = peer(ctx, scratch)
		if err := once(&peerUp, &peerDown, c, err); err != nil {
			return fmt.Errorf("%s: %w", peerName, err)
		}
	}
	b.report.durations(name+": upload of 100 files of 1 MiB", up, 0.5)
	b.report.durations(name+": download of the same", down, 0.5)
	b.report.durations(peerName+" of the same, there", peerUp, 0.5)
	b.report.durations(peerName+" of the same, back", peerDown, 0.5)
	b.report.bar(name+": upload, times "+peerName+", p50", measure.Quantile(up, 0.5)/measure.Quantile(peerUp, 0.5), "x", barTree)
	b.report.bar(name+": download, times "+peerName+", p50", measure.Quantile(down, 0.5)/measure.Quantile(peerDown, 0.5), "x", barTree)
	return nil
}
