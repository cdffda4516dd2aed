package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/propagation"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/payload"
	"github.com/stepward/stepward/workflow"
)

// pageOfSignals is how many signals of a name a statement reads at most.
const pageOfSignals = 1000

// Look implements engine.Host.
func (h *host) Look(ctx context.Context, after map[string]int64, children []int64) (engine.News, error) {
	var news engine.News
	err := h.w.retry(ctx, h.t, func(ctx context.Context) error {
		news = engine.News{}
		if len(after) > 0 {
			if err := h.signals(ctx, after, &news); err != nil {
				return err
			}
		}
		if len(children) == 0 {
			return nil
		}
		rows, err := h.w.Pool.Query(ctx, h.w.q.ChildEnds, children)
		if err != nil {
			return err
		}
		var c engine.ChildEnd
		var state string
		_, err = pgx.ForEachRow(rows, []any{&c.Run, &state, &c.Output, &c.Error}, func() error {
			c.Kind = map[string]engine.EndKind{"completed": engine.Completed, "failed": engine.Failed, "canceled": engine.Canceled}[state]
			news.Children = append(news.Children, c)
			c.Output, c.Error = nil, nil
			return nil
		})
		return err
	})
	return news, err
}

// signals reads a page of the signals of each name.
func (h *host) signals(ctx context.Context, after map[string]int64, news *engine.News) error {
	var names []string
	var ids []int64
	for name, id := range after {
		names, ids = append(names, name), append(ids, id)
	}
	rows, err := h.w.Pool.Query(ctx, h.w.q.SignalList, h.t.run, names, ids, pageOfSignals)
	if err != nil {
		return err
	}
	var s engine.Signal
	read := make(map[string]int, len(after))
	_, err = pgx.ForEachRow(rows, []any{&s.ID, &s.Name, &s.Payload}, func() error {
		news.Signals = append(news.Signals, s)
		s.Payload = nil
		read[s.Name]++
		news.More = news.More || read[s.Name] == pageOfSignals
		return nil
	})
	return err
}

// Child implements engine.Host.
func (h *host) Child(ctx context.Context, c engine.Child) (id int64, err error) {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	item := enqueue.Item{Tenant: h.t.tenant, Workflow: c.Workflow, Key: c.Unique, Input: c.Input, Traceparent: carrier["traceparent"], Kin: h.t.run}
	item.Set(c.Options)
	item.Priority = cmp.Or(item.Priority, h.t.priority)
	if err := h.patiently(ctx, 0, func(ctx context.Context) error { return item.Seal(ctx, h.w.box) }); err != nil {
		return 0, err
	}
	err = h.w.retry(ctx, h.t, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, h.w.Pool, func(tx pgx.Tx) error {
			id, err = h.w.childTx(ctx, tx, h.t, c, item)
			return err
		})
	})
	if err == nil {
		h.w.wake()
	}
	return id, err
}

// childTx adds a child run with the wait for it, unless an earlier turn did.
func (w *worker) childTx(ctx context.Context, tx pgx.Tx, t *heldTurn, c engine.Child, item enqueue.Item) (id int64, err error) {
	if item.Key != "" || item.Limit.Key != "" {
		if _, err := tx.Exec(ctx, w.q.ChildPatience); err != nil {
			return 0, err
		}
	}
	if _, err := tx.Exec(ctx, w.q.TurnLock, t.run); err != nil {
		return 0, err
	}
	var depth int
	err = tx.QueryRow(ctx, w.q.ChildWait, t.session, t.run, t.epoch, c.Seq, c.Key, engine.MaxDepth).Scan(&id, &depth)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, engine.ErrLeaseLost
	}
	if err != nil || id > 0 || c.Detach && id < 0 {
		return max(id, -id), err
	}
	if depth >= engine.MaxDepth && !c.Detach {
		return 0, engine.TooDeep(t.workflow, c.Workflow)
	}
	results, err := enqueue.Insert(ctx, tx, w.q, []enqueue.Item{item})
	if err != nil {
		return 0, err
	}
	if err := results[0].Err; err != nil {
		return 0, notAdded(c, item, err)
	}
	id = results[0].Run
	waited := id
	if c.Detach {
		waited = -id
	}
	if _, err := tx.Exec(ctx, w.q.ChildInsert, t.run, c.Seq, c.Key, waited); err != nil {
		return 0, err
	}
	if !c.Detach {
		if _, err := tx.Exec(ctx, w.q.ChildParent, id, t.run); err != nil {
			return 0, err
		}
	}
	if ticket, ok := enqueue.Announcement(results); ok {
		_, err = w.river.InsertTx(ctx, tx, ticket, nil)
	}
	return id, err
}

// notAdded says why there is no child.
func notAdded(c engine.Child, item enqueue.Item, err error) error {
	if conflict, ok := errors.AsType[*enqueue.ConflictError](err); ok {
		err := &workflow.KeyConflictError{Tenant: item.Tenant, Key: item.Key, Run: workflow.RunID(conflict.Run)}
		return &engine.Fault{Kind: "conflict", Message: err.Error(), Type: fmt.Sprintf("%T", err), Permanent: true}
	}
	reason := "mode"
	if _, ok := errors.AsType[*identity.KeyError](err); ok {
		reason = "identity"
	}
	if _, ok := errors.AsType[*payload.OpenError](err); ok {
		reason = "undecodable"
	}
	return &engine.ParkError{Reason: reason, Err: fmt.Errorf("workflow %s: %w", c.Workflow, err)}
}

// Late implements engine.Host.
func (h *host) Late(ctx context.Context) (late bool, err error) {
	err = h.w.retry(ctx, h.t, func(ctx context.Context) error {
		return h.w.Pool.QueryRow(ctx, h.w.q.RunLate, h.t.run).Scan(&late)
	})
	return late, err
}

// notify asks the maintenance to look for notices.
func (w *worker) notify() {
	select {
	case w.noticed <- struct{}{}:
	default:
	}
}

// notices does to other runs what a commit left to be done: it wakes parents
// and cancels children.
func (w *worker) notices(ctx context.Context) error {
	for n := 1; n > 0; { // the children of a child that was ended are next
		try, cancel := context.WithTimeout(ctx, maintenanceTimeout)
		err := pgx.BeginFunc(try, w.Pool, func(tx pgx.Tx) (err error) {
			n, err = w.noticesTx(try, tx)
			return err
		})
		cancel()
		if err != nil {
			return err
		}
		if n > 0 {
			w.wake()
		}
	}
	return nil
}

func (w *worker) noticesTx(ctx context.Context, tx pgx.Tx) (int, error) {
	rows, err := tx.Query(ctx, w.q.NoticeTake)
	if err != nil {
		return 0, err
	}
	var wake, cancels, terminates []int64
	var run int64
	var cancel, terminate bool
	_, err = pgx.ForEachRow(rows, []any{&run, &cancel, &terminate}, func() error {
		switch {
		case terminate:
			terminates = append(terminates, run)
		case cancel:
			cancels = append(cancels, run)
		}
		wake = append(wake, run)
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, run := range cancels {
		if _, err := tx.Exec(ctx, w.q.RunCancel, run, w.actor(), w.q.Channel()); err != nil {
			return 0, err
		}
	}
	for _, run := range terminates {
		if _, err := tx.Exec(ctx, w.q.RunTerminate, run, w.actor(), terminatedDetail, w.q.Channel()); err != nil {
			return 0, err
		}
	}
	if len(wake) == 0 {
		return 0, nil
	}
	var woken, told int
	err = tx.QueryRow(ctx, w.q.NoticeWake, wake, w.q.Channel()).Scan(&woken, &told)
	return len(wake), err
}

// terminatedDetail is the record of a run that ended as its parent was terminated.
var terminatedDetail = []byte(`{"message":"workflow: run terminated with its parent","kind":"terminated"}`)

// told passes on what the channel says: a run has news, or, after a question
// mark, a client that watches it, or, after an exclamation mark, something that is
// wanted of it.
func (w *worker) told(payload string) {
	payload, watched := strings.CutPrefix(payload, "?")
	payload, verb := strings.CutPrefix(payload, "!")
	run, err := strconv.ParseInt(payload, 10, 64)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch t := w.turns[run]; {
	case t == nil:
	case watched:
		t.watched.Store(true)
	case verb:
		select {
		case w.asked <- struct{}{}:
		default:
		}
	default:
		t.hasNews()
	}
}
