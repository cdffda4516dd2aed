package batch_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stepward/stepward/internal/batch"
)

// store is what batches are written to. Each batch waits until the test lets it
// commit.
type store struct {
	batch.Group[string, int]
	began  chan []string // a batch has begun
	commit chan error    // how it ends

	mu        sync.Mutex
	committed []string
	running   int
}

func newStore(t *testing.T, maxItems, maxBytes int) *store {
	s := &store{began: make(chan []string), commit: make(chan error)}
	s.MaxItems, s.MaxBytes = maxItems, maxBytes
	s.Size = func(item string) int { return len(item) }
	s.Run = func(ctx context.Context, items []string) ([]int, error) {
		s.mu.Lock()
		s.running++
		if s.running > 1 {
			t.Error("two batches run at once")
		}
		s.mu.Unlock()
		s.began <- slices.Clone(items)
		err := <-s.commit
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return nil, err
		}
		out := make([]int, len(items))
		for i, item := range items {
			out[i] = len(item)
		}
		s.committed = append(s.committed, items...)
		return out, nil
	}
	return s
}

func (s *store) has(item string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.committed, item)
}

// answer is what one caller got.
type answer struct {
	item string
	out  int
	err  error
}

// do calls Do for each item, one behind the other in the queue.
func (s *store) do(ctx context.Context, answers chan<- answer, items ...string) {
	for _, item := range items {
		before := s.Waiting()
		go func() {
			out, err := s.Do(ctx, item)
			answers <- answer{item, out, err}
		}()
		for s.Waiting() == before { // until it is in the queue
			runtime.Gosched()
		}
	}
}

// first starts a batch of one, behind which the next ones queue.
func (s *store) first(t *testing.T, answers chan<- answer) {
	t.Helper()
	go func() {
		out, err := s.Do(t.Context(), "first")
		answers <- answer{"first", out, err}
	}()
	if got := <-s.began; !slices.Equal(got, []string{"first"}) {
		t.Fatalf("the first batch is %v", got)
	}
}

func (s *store) begins(t *testing.T, want ...string) {
	t.Helper()
	if got := <-s.began; !slices.Equal(got, want) {
		t.Errorf("the batch is %v, want %v", got, want)
	}
}

// A lone caller runs at once; what arrives meanwhile is the next batch. Nobody
// has an answer before its batch is committed.
func TestBatchGroups(t *testing.T) {
	s := newStore(t, 100, 1000)
	answers := make(chan answer, 10)
	s.first(t, answers)
	s.do(t.Context(), answers, "a", "bb", "ccc")
	if len(answers) > 0 {
		t.Error("somebody has an answer before a commit")
	}
	s.commit <- nil
	if got := <-answers; got != (answer{"first", 5, nil}) {
		t.Errorf("got %+v", got)
	}
	s.begins(t, "a", "bb", "ccc")
	if len(answers) > 0 {
		t.Error("somebody has an answer before its commit")
	}
	s.commit <- nil
	for range 3 {
		if got := <-answers; got.err != nil || got.out != len(got.item) || !s.has(got.item) {
			t.Errorf("got %+v, committed: %v", got, s.has(got.item))
		}
	}
	s.first(t, answers) // idle again
	s.commit <- nil
	<-answers
}

func TestBatchBounds(t *testing.T) {
	for name, c := range map[string]struct {
		maxItems, maxBytes int
		items              []string
		want               [][]string
	}{
		"items":         {2, 1000, []string{"a", "b", "c", "d", "e"}, [][]string{{"a", "b"}, {"c", "d"}, {"e"}}},
		"bytes":         {100, 4, []string{"aa", "bb", "c", "ddd", "e"}, [][]string{{"aa", "bb"}, {"c", "ddd"}, {"e"}}},
		"a large item":  {100, 4, []string{"a", "large one", "b"}, [][]string{{"a"}, {"large one"}, {"b"}}},
		"no bounds set": {0, 0, []string{"a", "b", "c"}, [][]string{{"a", "b", "c"}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, c.maxItems, c.maxBytes)
			answers := make(chan answer, 10)
			s.first(t, answers)
			s.do(t.Context(), answers, c.items...)
			for _, want := range c.want {
				s.commit <- nil
				s.begins(t, want...)
			}
			s.commit <- nil
			for range len(c.items) + 1 {
				if got := <-answers; got.err != nil {
					t.Errorf("got %+v", got)
				}
			}
		})
	}
}

// An error is that of its batch; the next one is not touched.
func TestBatchFails(t *testing.T) {
	s := newStore(t, 2, 1000)
	answers := make(chan answer, 10)
	s.first(t, answers)
	s.do(t.Context(), answers, "a", "b", "c")
	boom := errors.New("boom")
	s.commit <- nil
	<-answers
	s.begins(t, "a", "b")
	s.commit <- boom
	for range 2 {
		if got := <-answers; !errors.Is(got.err, boom) || s.has(got.item) {
			t.Errorf("got %+v", got)
		}
	}
	s.begins(t, "c")
	s.commit <- nil
	if got := <-answers; got.err != nil || !s.has("c") {
		t.Errorf("got %+v", got)
	}
}

// A panic of Run is its own caller's. The others get an error instead of waiting
// for ever, and the group works on.
func TestBatchPanics(t *testing.T) {
	s := newStore(t, 100, 1000)
	run := s.Run
	s.Run = func(ctx context.Context, items []string) ([]int, error) {
		out, err := run(ctx, items)
		if slices.Contains(items, "poison") {
			panic("poison")
		}
		return out, err
	}
	answers := make(chan answer, 10)
	s.first(t, answers)
	leader := make(chan any, 1)
	go func() {
		defer func() { leader <- recover() }()
		_, _ = s.Do(t.Context(), "leader") // never returns
	}()
	for s.Waiting() == 0 {
		runtime.Gosched()
	}
	s.do(t.Context(), answers, "poison", "b")
	s.commit <- nil
	<-answers
	s.begins(t, "leader", "poison", "b")
	s.commit <- nil
	if got := <-leader; got != "poison" {
		t.Errorf("its own caller got %v", got)
	}
	for range 2 {
		if got := <-answers; !errors.Is(got.err, batch.ErrRun) {
			t.Errorf("got %+v", got)
		}
	}
	s.first(t, answers)
	s.commit <- nil
	if got := <-answers; got.err != nil {
		t.Errorf("after the panic: got %+v", got)
	}
}

// Who gives up before its batch begins is not in it. Who gives up later, even
// the one that runs the batch, cancels nothing for the others.
func TestBatchCancel(t *testing.T) {
	s := newStore(t, 100, 1000)
	answers, canceled := make(chan answer, 10), make(chan answer, 10)
	gaveUp := errors.New("gave up")
	early, cancelEarly := context.WithCancelCause(t.Context())
	late, cancelLate := context.WithCancelCause(t.Context())
	s.first(t, answers)
	s.do(early, canceled, "early 1")
	s.do(late, answers, "late 1") // is to run the next batch, once early 1 is gone
	s.do(t.Context(), answers, "a")
	s.do(early, canceled, "early 2")
	s.do(late, answers, "late 2")
	cancelEarly(gaveUp)
	for range 2 {
		if got := <-canceled; !errors.Is(got.err, gaveUp) {
			t.Errorf("got %+v", got)
		}
	}
	s.commit <- nil
	<-answers
	s.begins(t, "late 1", "a", "late 2")
	cancelLate(gaveUp)
	if len(answers) > 0 {
		t.Error("somebody has an answer before its commit")
	}
	s.commit <- nil
	for range 3 {
		if got := <-answers; got.err != nil || !s.has(got.item) { // the outcome, not the cancelation
			t.Errorf("got %+v", got)
		}
	}
	if s.has("early 1") || s.has("early 2") {
		t.Error("a canceled item was committed")
	}
}

// Who gives up on an impatient group leaves, and the batch goes on without him:
// also the one that runs it.
func TestBatchImpatient(t *testing.T) {
	s := newStore(t, 100, 1000)
	s.Impatient = true
	answers, gone := make(chan answer, 10), make(chan answer, 10)
	ctx, cancel := context.WithCancel(t.Context())
	s.first(t, answers)
	s.do(ctx, gone, "leader")
	s.do(t.Context(), answers, "a")
	s.do(ctx, gone, "b")
	s.commit <- nil
	<-answers
	s.begins(t, "leader", "a", "b")
	cancel()
	for range 2 {
		if got := <-gone; !errors.Is(got.err, batch.ErrUnknown) || !errors.Is(got.err, context.Canceled) {
			t.Errorf("got %+v", got)
		}
	}
	s.commit <- nil
	if got := <-answers; got.err != nil || !s.has("leader") || !s.has("b") {
		t.Errorf("got %+v", got)
	}
}

// A panic of a batch is its leader's, in an impatient group too, while he waits.
func TestBatchImpatientPanics(t *testing.T) {
	s := newStore(t, 100, 1000)
	s.Impatient = true
	run := s.Run
	s.Run = func(ctx context.Context, items []string) ([]int, error) {
		out, err := run(ctx, items)
		if slices.Contains(items, "poison") {
			panic("poison")
		}
		return out, err
	}
	answers := make(chan answer, 10)
	s.first(t, answers)
	leader := make(chan any, 1)
	go func() {
		defer func() { leader <- recover() }()
		_, _ = s.Do(t.Context(), "leader") // never returns
	}()
	for s.Waiting() == 0 {
		runtime.Gosched()
	}
	s.do(t.Context(), answers, "poison")
	s.commit <- nil
	<-answers
	s.begins(t, "leader", "poison")
	s.commit <- nil
	if got := <-leader; got != "poison" {
		t.Errorf("its own caller got %v", got)
	}
	if got := <-answers; !errors.Is(got.err, batch.ErrRun) {
		t.Errorf("got %+v", got)
	}
}

// Many callers, some of which give up at any moment: each gets its own answer,
// and what was not acknowledged as canceled is committed once.
func TestBatchMany(t *testing.T) {
	var (
		mu        sync.Mutex
		committed = make(map[string]int)
	)
	g := batch.Group[string, string]{MaxItems: 7, Run: func(_ context.Context, items []string) ([]string, error) {
		mu.Lock()
		defer mu.Unlock()
		out := make([]string, len(items))
		for i, item := range items {
			committed[item]++
			out[i] = item + "!"
		}
		return out, nil
	}}
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			for j := range 50 {
				item := strings.Repeat("x", i) + "," + strings.Repeat("y", j)
				ctx, cancel := context.WithCancel(t.Context())
				if (i+j)%3 == 0 {
					all.Go(cancel)
				}
				out, err := g.Do(ctx, item)
				mu.Lock()
				n := committed[item]
				mu.Unlock()
				switch {
				case err == nil && (out != item+"!" || n != 1):
					t.Errorf("%d,%d: got %s, committed %d times", i, j, out, n)
				case err != nil && (!errors.Is(err, context.Canceled) || n != 0):
					t.Errorf("%d,%d: got %v, committed %d times", i, j, err, n)
				}
				cancel()
			}
		})
	}
	all.Wait()
}
