package workflow

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// watches is who waits for runs to show more, or to end. All share one
// connection, which is there while anybody waits. What comes through it is a
// hint: every waiter polls as well.
type watches struct {
	mu    sync.Mutex
	bells map[int64]map[chan struct{}]struct{}
	stop  context.CancelFunc
}

// watch returns a bell that rings when something may have happened to a run.
func (c *Client) watch(id int64) (bell chan struct{}, end func()) {
	w := &c.watches
	bell = make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bells == nil {
		w.bells = make(map[int64]map[chan struct{}]struct{})
	}
	if len(w.bells) == 0 {
		ctx, stop := context.WithCancel(context.Background())
		w.stop = stop
		go c.listen(ctx)
	}
	if w.bells[id] == nil {
		w.bells[id] = make(map[chan struct{}]struct{})
	}
	w.bells[id][bell] = struct{}{}
	return bell, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if delete(w.bells[id], bell); len(w.bells[id]) == 0 {
			delete(w.bells, id)
		}
		if len(w.bells) == 0 {
			w.stop()
		}
	}
}

// ring tells who waits for a run to look.
func (w *watches) ring(id int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for bell := range w.bells[id] {
		select {
		case bell <- struct{}{}:
		default:
		}
	}
}

// listen passes on what workers tell, until ctx is done.
func (c *Client) listen(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.listenOnce(ctx); err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

func (c *Client) listenOnce(ctx context.Context) error {
	cfg := c.pool.Config()
	if cfg.BeforeConnect != nil { // it may fetch the password
		if err := cfg.BeforeConnect(ctx, cfg.ConnConfig); err != nil {
			return err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{c.q.WatchChannel()}.Sanitize()); err != nil {
		return err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if id, err := strconv.ParseInt(n.Payload, 10, 64); err == nil {
			c.watches.ring(id)
		}
	}
}

// A lookout paces one who waits for a run: between two looks it waits for the
// bell, or for a while that grows.
type lookout struct {
	c        *Client
	id       RunID
	patience time.Duration // pauses shorter than this are spent without a bell

	pause time.Duration
	bell  chan struct{}
	close func()
	epoch int // of the turn that was asked to ring
	asked time.Time
}

// askAgain is how often a worker is asked to ring that may not have heard it.
const askAgain = 5 * time.Second

// wait returns when it is time to look again, or with ctx's cause. The epoch is
// what the last look saw.
func (l *lookout) wait(ctx context.Context, epoch int) error {
	if l.pause = min(l.pause*3/2, pollLast); l.pause == 0 {
		l.pause = pollFirst
	}
	if l.bell == nil && l.pause >= l.patience {
		l.bell, l.close = l.c.watch(int64(l.id))
	}
	if l.bell != nil && (l.epoch != epoch || time.Since(l.asked) > askAgain) {
		l.epoch, l.asked = epoch, time.Now()
		// Of no use is only the hint, should this fail.
		_, _ = l.c.pool.Exec(ctx, l.c.q.Watch, l.c.q.Channel(), int64(l.id))
	}
	timer := time.NewTimer(l.pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.bell:
		l.pause = 0
	case <-timer.C:
	}
	return nil
}

func (l *lookout) end() {
	if l.close != nil {
		l.close()
	}
}
