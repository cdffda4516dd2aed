package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/local"
)

// What a hard revocation promises, in seconds: the last use, and the end, of the usual kind and strict.
const (
	barUse    = 15
	barEnd    = 90
	barStrict = 15
)

const (
	renewal   = 5 * time.Second  // the time between renewals, over which the runs of a row are spread
	endMost   = 2 * time.Minute  // how long the end of everything is waited for,
	hearsMost = 15 * time.Second // and then, for the worker to notice
)

// troubles are what may be wrong when something is revoked: before it, or, where after is set, as soon as it
// is committed.
var troubles = []struct {
	name    string
	after   bool
	stopped bool // the worker, which says nothing then
	cause   func(*scene) error
}{
	{"nothing else is wrong", false, false, func(*scene) error { return nil }},
	{"the worker is stopped (SIGSTOP)", false, true, func(s *scene) error { return s.worker.cmd.Process.Signal(syscall.SIGSTOP) }},
	{"worker and broker are cut off", false, false, func(s *scene) error { s.broker.hold(); return nil }},
	{"worker and sandbox are cut off", false, false, func(s *scene) error { _, err := fmt.Fprintln(s.orders, cutWord); return err }},
	{"Postgres is away", true, false, func(s *scene) error { s.postgres.end(); return nil }},
}

// benchRevoke revokes what commands in sandboxes use all the time, and finds out from outside when they did so
// last, and when they ended. All rows go on at the same time.
func benchRevoke(ctx context.Context, b *bench) error {
	if b.runnerErr != nil {
		return b.runnerErr
	}
	if os.Getuid() != 0 {
		b.report.note("left out: only root can look into sandboxes")
		return nil
	}
	n := max(b.times(2), 1)
	pool, err := b.cluster.NewPool(ctx, 16, "revoke", nil)
	if err != nil {
		return err
	}
	defer pool.Close()
	var scenes []*scene
	for _, name := range []string{local.Name, docker.Name} {
		backend, err := backendOf(name, b.runner.Path)
		if err != nil {
			return err
		}
		if d, ok := backend.(*docker.Backend); ok {
			defer func() { _ = d.Close() }()
		}
		if _, err := backend.Probe(ctx); err != nil {
			b.report.note("left out: %v", err)
			continue
		}
		for i := range troubles {
			s := &scene{trouble: i, pool: pool, backend: backend, broker: newWire(), postgres: newWire(), heard: map[string]time.Time{}}
			defer s.close()
			scenes = append(scenes, s)
		}
	}
	failed := together(scenes, func(s *scene) error { return s.begin(ctx, b, n) })
	scenes = slices.DeleteFunc(scenes, func(s *scene) bool { return len(s.users) < 2*n }) // what began is measured all the same
	measure.Progress("revoke: now")
	failed = errors.Join(failed, together(scenes, func(s *scene) error { return s.measure(ctx) }))
	var rows [][]string
	for _, s := range scenes {
		if s.row != nil {
			rows = append(rows, s.row)
		}
	}
	b.report.Tables = append(b.report.Tables, table{
		Suite: b.report.suite,
		Title: fmt.Sprintf("Seconds from the commit of a hard revocation, the most of %s. Bars in brackets.", plural(n, "run")),
		Columns: []string{"", "the attempt is over", fmt.Sprintf("last use (%d)", barUse), fmt.Sprintf("end (%d)", barEnd),
			fmt.Sprintf("last use, strict key (%d)", barUse), fmt.Sprintf("end, strict key (%d)", barStrict)},
		Rows: rows,
	})
	b.report.note("a lost notification has no row: none is sent, a broker reads what is revoked at each renewal")
	return failed
}

// together calls f for all scenes at once.
func together(scenes []*scene, f func(*scene) error) error {
	errs := make([]error, len(scenes))
	var all sync.WaitGroup
	for i, s := range scenes {
		all.Go(func() {
			if err := f(s); err != nil {
				errs[i] = fmt.Errorf("%s, %s: %w", s.backend.Name(), troubles[s.trouble].name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// measure revokes all that the row's runs have, and fills the row.
func (s *scene) measure(ctx context.Context) error {
	t := troubles[s.trouble]
	if !t.after {
		if err := t.cause(s); err != nil {
			return err
		}
	}
	if err := s.profiles.Revoke(ctx, identity.Revocation{Tenant: "acme", Kind: identity.KindTenant, State: identity.Hard, Reason: "bench"}); err != nil {
		return err
	}
	at := time.Now()
	if t.after {
		if err := t.cause(s); err != nil {
			return err
		}
	}
	waiting, cancel := context.WithTimeout(ctx, endMost)
	defer cancel()
	errs := make([]error, len(s.users))
	var all sync.WaitGroup
	for i, u := range s.users {
		all.Go(func() { errs[i] = u.await(waiting) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	over := "it is stopped"
	if !t.stopped {
		over = s.attempts(ctx, at)
	}
	var last, end [2]time.Duration
	for _, u := range s.users {
		kind := 0
		if u.Strict {
			kind = 1
		}
		last[kind], end[kind] = max(last[kind], u.last.Sub(at)), max(end[kind], u.end.Sub(at))
	}
	s.row = []string{s.backend.Name() + ": " + t.name, over, seconds(last[0], barUse), seconds(end[0], barEnd), seconds(last[1], barUse), seconds(end[1], barStrict)}
	return nil
}

// attempts returns when the last attempt was over. Workers get some time to notice.
func (s *scene) attempts(ctx context.Context, since time.Time) string {
	until := time.Now().Add(hearsMost)
	for {
		s.mu.Lock()
		var most time.Duration
		for _, at := range s.heard {
			most = max(most, at.Sub(since))
		}
		n := len(s.heard)
		s.mu.Unlock()
		if n == len(s.users) {
			return seconds(most, 0)
		}
		if time.Now().After(until) || pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Sprintf("%d of %d are not, %.0f s after the end", len(s.users)-n, len(s.users), hearsMost.Seconds())
		}
	}
}

// seconds shows a time, in bold if it is over the bar.
func seconds(d time.Duration, bar float64) string {
	v := round(d.Seconds(), 1)
	if bar > 0 && v > bar {
		return fmt.Sprintf("**%.1f**", v)
	}
	return fmt.Sprintf("%.1f", v)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
