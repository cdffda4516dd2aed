package workflow

import (
	"context"
	"slices"
	"strings"

	"github.com/stepward/stepward/internal/engine"
)

// handOver gives the body a result that an earlier turn recorded.
func (t *turn) handOver(c *engine.Checkpoint) {
	if c.Seq == 0 {
		t.consume(c)
		t.cancel(c.Key)
		return
	}
	f := t.unresolved[c.Seq]
	if f == nil || !f.launched {
		t.park("nondeterminism", &NonDeterminismError{Seq: c.Seq, Recorded: c.Key})
		return
	}
	if !t.opened(c) {
		return
	}
	if f.hash != 0 && c.InputHash != f.hash {
		t.park("nondeterminism", f.otherInput(c))
		return
	}
	taken := t.consume(c)
	f.attempt = taken.Attempt
	t.resolve(f, taken.Output, f.failure(&taken))
}

// consume takes a checkpoint off those that are replayed: the next one, but for
// an instant of a fork (see instant). What it holds is not kept here any longer.
func (t *turn) consume(c *engine.Checkpoint) engine.Checkpoint {
	i := slices.Index(t.replay, c)
	if i == 0 {
		t.replay = t.replay[1:]
	} else {
		t.replay = slices.Delete(t.replay, i, i+1)
	}
	delete(t.recorded, c.Seq)
	t.shows.handed = max(t.shows.handed, c.Done)
	taken := *c
	c.Output, c.Error = nil, nil // the array that it is in stays for as long as the turn
	return taken
}

// record numbers a new checkpoint and keeps it for the next commit.
func (t *turn) record(c *engine.Checkpoint) {
	t.done++
	c.Done, t.shows.handed = t.done, t.done
	if c.Error != nil || c.Seq == 0 || strings.HasPrefix(c.Key[strings.LastIndexByte(c.Key, '/')+1:], keyTimeout) {
		c.Calls = t.seq
	}
	if c.Elapsed == 0 {
		c.Elapsed = max(t.in.Now().Sub(c.Started), 0)
	}
	t.pending.Checkpoints = append(t.pending.Checkpoints, *c)
}

// prepare writes down what is about to be waited for. It takes the place of what
// another version waited for there: the body fits all that is on record.
func (t *turn) prepare() {
	for _, f := range t.fresh {
		if other := t.in.Waits[f.seq]; other.Child > 0 {
			t.pending.Cancel = append(t.pending.Cancel, other.Child)
			other.Child = 0
			t.in.Waits[f.seq] = other
		}
		if f.done || f.written || f.step == nil && f.wait.Signal == "" && f.wait.Left <= t.in.Patience {
			continue
		}
		f.written = true
		t.pending.Waits = append(t.pending.Waits, *f.wait)
	}
	t.fresh = nil
}

// flush writes what is pending.
func (t *turn) flush(ctx context.Context) {
	b := t.pending
	t.pending, t.shows.bytes = engine.Batch{}, 0
	t.asks(func() {
		if err := t.in.Host.Write(context.WithoutCancel(ctx), b); err != nil {
			t.leave(refused(err))
		}
	})
}
