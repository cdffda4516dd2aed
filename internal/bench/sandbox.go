package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/bench/trees"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
)

// argHello makes this program say one word and end. It is what the peer starts.
const argHello = "hello-from-a-sandbox"

func hello() {
	if len(os.Args) == 2 && os.Args[1] == argHello {
		fmt.Println("hello")
		os.Exit(0)
	}
}

// The bars of a local sandbox: times the peer, milliseconds, MiB.
const (
	barCold = 1.5
	barExec = 3
	barRSS  = 8

	barExecP99  = 10
	barExecFork = 1.2 // times the same on the host, and a millisecond

	barGuest    = 2
	barGuestP99 = 8
)

// benchSandbox times local sandboxes. This program is the tool runner: what a
// worker that links all that this one does brings into its sandboxes.
func benchSandbox(ctx context.Context, b *bench) error {
	p, err := b.runner, b.runnerErr
	if err != nil {
		return err
	}
	if p.Path, err = filepath.EvalSymlinks(p.Path); err != nil {
		return err
	}
	backend := local.New(local.Config{Program: p.Path})
	if _, err := backend.Probe(ctx); err != nil {
		b.report.note("left out: %v", err)
		return nil
	}
	info, err := os.Stat(p.Path)
	if err != nil {
		return err
	}
	b.report.add("the runner's program", float64(info.Size())/(1<<20), "MiB")
	if err := b.cold(ctx, backend, p.Path, b.times(60)); err != nil {
		return err
	}
	if err := b.live(ctx, backend, b.times(300)); err != nil {
		return err
	}
	if err := b.guest(ctx, backend, b.times(60)); err != nil {
		return err
	}
	if err := b.benchKill(ctx, local.Name, backend, trees.PIDs, trees.All, b.times(40), barKill, barKillP99); err != nil {
		return err
	}
	if err := b.benchTree(ctx, local.Name, backend, "tar over a pipe", tarPipe, b.times(10)); err != nil {
		return err
	}
	return benchKubernetes(ctx, b)
}

// cold compares the starts, in pairs whose order alternates.
func (b *bench) cold(ctx context.Context, backend sandbox.Backend, path string, n int) error {
	bwrap, err := exec.LookPath("bwrap")
	if err != nil {
		b.report.note("bwrap is not installed: nothing to compare a start with")
	}
	ours := func() (time.Duration, error) { return coldLocal(ctx, backend) }
	peer := func() (time.Duration, error) { return coldPeer(ctx, bwrap, path) }
	var mine, theirs []time.Duration
	var ratios []float64
	for i := range n + 3 {
		var a, p time.Duration
		var err, perr error
		switch {
		case bwrap == "":
			a, err = ours()
		case i%2 == 0:
			a, err = ours()
			p, perr = peer()
		default:
			p, perr = peer()
			a, err = ours()
		}
		if err := errors.Join(err, perr); err != nil {
			return err
		}
		if i < 3 { // the program's pages are in memory from here on
			continue
		}
		mine, theirs, ratios = append(mine, a), append(theirs, p), append(ratios, a.Seconds()/p.Seconds())
	}
	b.report.durations("start to the first output of a command (echo)", mine, 0, 0.5, 0.95)
	if bwrap == "" {
		return nil
	}
	b.report.durations("bwrap --unshare-all, the same program, to its first output", theirs, 0, 0.5, 0.95)
	slices.Sort(ratios)
	b.report.bar(fmt.Sprintf("start, times bwrap, p50 of %d pairs", n), ratios[len(ratios)/2], "x", barCold)
	return nil
}

func coldLocal(ctx context.Context, backend sandbox.Backend) (time.Duration, error) {
	first := &firstWrite{}
	begin := time.Now()
	s, err := sandbox.Start(ctx, backend, sandbox.Options{})
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Destroy(context.WithoutCancel(ctx)) }()
	cmd := s.Command("echo", "hello")
	cmd.Stdout = first
	if err := cmd.Run(ctx); err != nil {
		return 0, err
	}
	return first.after(begin)
}

// coldPeer starts the runner's program in what bwrap makes: the same namespaces
// and about the same files, without a filter of system calls and Landlock.
func coldPeer(ctx context.Context, bwrap, path string) (time.Duration, error) {
	args := []string{"--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr"}
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if to, err := os.Readlink(dir); err == nil {
			args = append(args, "--symlink", to, dir)
		} else if _, err := os.Stat(dir); err == nil {
			args = append(args, "--ro-bind", dir, dir)
		}
	}
	args = append(args, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/workspace", "--ro-bind", path, "/runner", "/runner", argHello)
	first, stderr := &firstWrite{}, &bytes.Buffer{}
	cmd := exec.CommandContext(ctx, bwrap, args...)
	cmd.Stdout, cmd.Stderr = first, stderr
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("bwrap: %w: %s", err, stderr)
	}
	return first.after(begin)
}

// firstWrite remembers when something was written to it.
type firstWrite struct{ at time.Time }

func (f *firstWrite) Write(p []byte) (int, error) {
	if f.at.IsZero() {
		f.at = time.Now()
	}
	return len(p), nil
}

func (f *firstWrite) after(begin time.Time) (time.Duration, error) {
	if f.at.IsZero() {
		return 0, io.ErrUnexpectedEOF
	}
	return f.at.Sub(begin), nil
}

// live measures execs in a sandbox that is there, and what its idle runner keeps
// for itself afterwards.
func (b *bench) live(ctx context.Context, backend sandbox.Backend, n int) error {
	s, err := sandbox.Start(ctx, backend, sandbox.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = s.Destroy(context.WithoutCancel(ctx)) }()
	if err := b.execs(ctx, s, "true", "true", "true", local.Name, n); err != nil {
		return err
	}
	kB, err := anonymousOfChildren()
	if err != nil {
		return err
	}
	b.report.bar("anonymous memory of the idle tool runner", float64(kB)/1024, "MiB", barRSS)
	return nil
}

// execs compares a command in a sandbox that is there with the same on the host, in pairs, so
// that both meet the same machine.
func (b *bench) execs(ctx context.Context, s *sandbox.Sandbox, what, inside, outside, name string, n int) error {
	var took, host []time.Duration
	for i := range n + 20 {
		begin := time.Now()
		if err := s.Command(inside).Run(ctx); err != nil {
			return err
		}
		ours := time.Since(begin)
		begin = time.Now()
		if err := exec.CommandContext(ctx, outside).Run(); err != nil {
			return err
		}
		if i >= 20 {
			took, host = append(took, ours), append(host, time.Since(begin))
		}
	}
	b.report.durations("fork and exec of "+what+" on the host", host, 0.5, 0.99)
	name += ": exec of " + what + " in a live sandbox"
	b.report.bar(name+", p50", measure.Quantile(took, 0.5), "ms", barExec)
	b.report.bar(name+", p99", measure.Quantile(took, 0.99), "ms", barExecP99)
	b.report.bar(name+", less a millisecond, times one on the host, p50", (measure.Quantile(took, 0.5)-1)/measure.Quantile(host, 0.5), "x", barExecFork)
	b.report.durations(name, took, 0.95)
	return nil
}

// guest measures the first guest step of sandboxes that were made ahead, from its call
// to its answer, with a process that waits for it and without.
func (b *bench) guest(ctx context.Context, backend sandbox.Backend, n int) error {
	const settled = 200 * time.Millisecond // by then the process is there, and nothing of the start goes on
	one := func(spare bool) (time.Duration, error) {
		s, err := sandbox.Start(ctx, backend, sandbox.Options{SpareGuest: spare})
		if err != nil {
			return 0, err
		}
		defer func() { _ = s.Destroy(context.WithoutCancel(ctx)) }()
		select {
		case <-time.After(settled):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		begin := time.Now()
		_, err = s.Guest(ctx, sandbox.GuestStep{Step: "none"}) // whose answer is that there is none
		took := time.Since(begin)
		if ge := (*sandbox.GuestError)(nil); !errors.As(err, &ge) {
			return 0, fmt.Errorf("a guest step that does not exist: %w", err)
		}
		return took, nil
	}
	var with, without []time.Duration
	for range n {
		w, err := one(true)
		if err != nil {
			return err
		}
		wo, err := one(false)
		if err != nil {
			return err
		}
		with, without = append(with, w), append(without, wo)
	}
	b.report.bar("guest step in a sandbox made ahead, p50", measure.Quantile(with, 0.5), "ms", barGuest)
	b.report.bar("guest step in a sandbox made ahead, p99", measure.Quantile(with, 0.99), "ms", barGuestP99)
	b.report.durations("guest step in a sandbox made at once, without its start", without, 0.5, 0.99)
	return nil
}

var (
	statusParent = regexp.MustCompile(`(?m)^PPid:\s+(\d+)$`)
	statusAnon   = regexp.MustCompile(`(?m)^RssAnon:\s+(\d+) kB$`)
)

// anonymousOfChildren returns the memory of this process's largest child: the
// runner is the only one.
func anonymousOfChildren() (kB int, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		parent, anon := statusParent.FindSubmatch(raw), statusAnon.FindSubmatch(raw)
		if parent == nil || anon == nil || string(parent[1]) != strconv.Itoa(os.Getpid()) {
			continue
		}
		n, err := strconv.Atoi(string(anon[1]))
		if err != nil {
			return 0, err
		}
		kB = max(kB, n)
	}
	if kB == 0 {
		return 0, errors.New("no tool runner was found among the children")
	}
	return kB, nil
}
