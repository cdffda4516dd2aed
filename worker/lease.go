package worker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/boottime"
	"github.com/stepward/stepward/internal/engine"
)

// lease is this worker's right to the runs that it holds: a row that it renews,
// and the local deadline after which it must assume that others took them.
type lease struct {
	id       atomic.Int64 // session: random, new whenever the lease was lost
	deadline atomic.Int64 // on the clock of package boottime
	grace    atomic.Int64 // until then nobody is reaped: others may be late for the same reason
	mu       sync.Mutex
	lost     chan struct{} // closed when the session of id has ended
	conn     *pgx.Conn
}

func (l *lease) session() int64 { return l.id.Load() }

// ended is closed when the current session is over.
func (l *lease) ended() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// slack is what is left until the local deadline.
func (l *lease) slack() time.Duration { return time.Duration(l.deadline.Load()) - boottime.Now() }

// heartbeat is how often the lease is renewed, and margin how long before the
// row expires the worker gives up.
func (w *worker) heartbeat() time.Duration { return w.LeaseTTL * 3 / 10 }
func (w *worker) margin() time.Duration    { return w.LeaseTTL / 10 }

// register starts a session.
func (w *worker) register(ctx context.Context) error {
	var b [8]byte
	rand.Read(b[:]) // never fails
	session := int64(binary.BigEndian.Uint64(b[:]) >> 1)
	ctx, cancel := context.WithTimeout(ctx, w.LeaseTTL)
	defer cancel()
	conn, err := w.dialHeartbeat(ctx)
	if err != nil {
		return fmt.Errorf("worker: connect for the heartbeat: %w", err)
	}
	backends := []string{}
	if w.backend != nil {
		backends = append(backends, w.backend.Name())
	}
	sent := boottime.Now()
	ids, unmet := append([]int32{}, w.wants.ids...), append([]int32{}, w.unservable...) // of a session that is new, and so is not revoked
	if _, err := conn.Exec(ctx, w.q.WorkerInsert, session, w.Name, w.LeaseTTL.Seconds(), ids, unmet, backends, w.MaxRuns); err != nil {
		closeConn(conn)
		return fmt.Errorf("worker: register: %w", err)
	}
	w.lease.mu.Lock()
	w.lease.conn, w.lease.lost = conn, make(chan struct{})
	w.lease.mu.Unlock()
	w.lease.deadline.Store(int64(sent + w.LeaseTTL - w.margin()))
	w.lease.id.Store(session)
	return nil
}

func (w *worker) actor() string { return "worker:" + w.Name }

func (w *worker) dialHeartbeat(ctx context.Context) (conn *pgx.Conn, err error) {
	if w.HeartbeatURL != "" {
		conn, err = pgx.Connect(ctx, w.HeartbeatURL)
	} else {
		conn, err = pgx.ConnectConfig(ctx, w.Pool.Config().ConnConfig)
	}
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{w.q.Channel()}.Sanitize()); err != nil {
		closeConn(conn)
		return nil, err
	}
	return conn, nil
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn.Close(ctx) // the server notices in any case
}

func (w *worker) deregister(ctx context.Context) {
	w.exec(ctx, w.q.WorkerState, w.lease.session(), "gone")
	w.lease.mu.Lock()
	defer w.lease.mu.Unlock()
	if w.lease.conn != nil {
		closeConn(w.lease.conn)
		w.lease.conn = nil
	}
}

// keepLease renews the lease until ctx is done. When it is lost, it stops the
// turns and starts a new session.
func (w *worker) keepLease(ctx context.Context) {
	for {
		w.listen(ctx, w.heartbeat())
		if ctx.Err() != nil {
			return
		}
		err := w.renew(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		w.log.WarnContext(ctx, "heartbeat failed", "error", err, "left", w.lease.slack())
		for err != nil && w.lease.slack() > 0 && !errors.Is(err, engine.ErrLeaseLost) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(min(w.heartbeat()/6, w.lease.slack())):
			}
			err = w.renew(ctx)
		}
		if err != nil {
			w.loseLease(ctx, err)
		}
		w.lease.grace.Store(int64(boottime.Now() + w.LeaseTTL))
	}
}

// listen waits until the next heartbeat is due, and passes on what the channel
// says meanwhile. What gets lost here is found by reconcile.
func (w *worker) listen(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	w.lease.mu.Lock()
	conn := w.lease.conn
	w.lease.mu.Unlock()
	for conn != nil && !conn.IsClosed() {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			break
		}
		w.told(n.Payload)
	}
	<-ctx.Done()
}

// renew extends the lease once. The local deadline counts from before sending.
func (w *worker) renew(ctx context.Context) error {
	if w.lease.slack() <= 0 {
		return engine.ErrLeaseLost // too late, whatever the row says: others count on it
	}
	ctx, cancel := context.WithTimeout(ctx, min(w.lease.slack(), max(w.LeaseTTL/5, 500*time.Millisecond)))
	defer cancel()
	w.lease.mu.Lock()
	conn := w.lease.conn
	w.lease.mu.Unlock()
	if conn == nil || conn.IsClosed() {
		var err error
		if conn, err = w.dialHeartbeat(ctx); err != nil {
			return err
		}
		w.lease.mu.Lock()
		w.lease.conn = conn
		w.lease.mu.Unlock()
	}
	sent := boottime.Now()
	var state string
	err := conn.QueryRow(ctx, w.q.WorkerHeartbeat, w.lease.session(), w.LeaseTTL.Seconds()).Scan(&state)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%w: another worker declared this one dead", engine.ErrLeaseLost)
	}
	if err != nil {
		closeConn(conn)
		return err
	}
	w.tel.leaseSlack.Record(ctx, w.lease.slack().Seconds())
	w.lease.deadline.Store(int64(sent + w.LeaseTTL - w.margin()))
	return nil
}

// loseLease stops everything that the session holds and begins a new one, as
// soon as Postgres lets it.
func (w *worker) loseLease(ctx context.Context, cause error) {
	w.log.ErrorContext(ctx, "lease lost: stopping all turns", "error", cause, "turns", w.held())
	w.lease.mu.Lock()
	close(w.lease.lost)
	conn := w.lease.conn
	w.lease.mu.Unlock()
	w.cancelTurns(engine.ErrLeaseLost)
	if conn != nil {
		closeConn(conn) // the new session has its own
	}
	old := w.lease.session()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := w.register(ctx)
		if err == nil {
			break
		}
		w.log.WarnContext(ctx, "waiting for postgres", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
	w.exec(ctx, w.q.WorkerState, old, "gone") // frees what the old session held
	w.log.InfoContext(ctx, "new session", "session", fmt.Sprintf("%x", w.lease.session()))
	w.wake()
}
