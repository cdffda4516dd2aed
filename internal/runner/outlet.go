package runner

import (
	"bufio"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/internal/beat"
	"github.com/stepward/stepward/internal/rpc"
)

// passEvery is how often a value of progress is passed on, at most. The worker
// writes less often.
const passEvery = 100 * time.Millisecond

var (
	errOver       = errors.New("the attempt has ended")
	errNoReceipts = errors.New("this sandbox hears nothing of the worker while a step runs, and so takes no entries of streams; values of progress it takes")
)

// An Outlet passes on what a guest step shows before it ends. It implements
// engine.Outlet.
type Outlet struct {
	pen *pen
	in  *bufio.Reader // receipts

	unanswered bool // there will be no receipts

	mu      sync.Mutex
	over    bool
	entries int64
	waiting map[int64]chan<- error // nil: nobody listens for receipts yet
	values  map[string]*beat.Line
}

// Append returns when the worker has made the entry durable.
func (o *Outlet) Append(ctx context.Context, stream string, payload []byte) error {
	if o.unanswered {
		return errNoReceipts
	}
	o.mu.Lock()
	if o.over {
		o.mu.Unlock()
		return errOver
	}
	if o.waiting == nil {
		o.waiting = make(map[int64]chan<- error)
		go o.listen()
	}
	o.entries++
	n := o.entries
	receipt := make(chan error, 1)
	o.waiting[n] = receipt
	o.mu.Unlock()
	if err := o.send(&rpc.GuestShown{Name: stream, Value: payload, Entry: n}); err != nil {
		return err
	}
	select {
	case err := <-receipt:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Progress passes a value on soon, or before the answer.
func (o *Outlet) Progress(name string, value []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return errOver
	}
	line := o.values[name]
	if line == nil {
		line = &beat.Line{Every: passEvery, Pass: func(value []byte) { _ = o.send(&rpc.GuestShown{Name: name, Value: value}) }}
		if o.values == nil {
			o.values = make(map[string]*beat.Line)
		}
		o.values[name] = line
	}
	line.Send(value)
	return nil
}

func (o *Outlet) send(s *rpc.GuestShown) error {
	raw, err := proto.Marshal(s)
	if err == nil {
		o.pen.early(rpc.ShownField, raw)
	}
	return err
}

// listen hands receipts over until the runner has gone.
func (o *Outlet) listen() {
	for {
		var r rpc.GuestReceipt
		if err := protodelim.UnmarshalFrom(o.in, &r); err != nil {
			o.end()
			return
		}
		var err error
		if r.Error != "" {
			err = errors.New(r.Error)
		}
		o.mu.Lock()
		if receipt := o.waiting[r.Entry]; receipt != nil {
			receipt <- err
			delete(o.waiting, r.Entry)
		}
		o.mu.Unlock()
	}
}

// end lets nobody wait any longer.
func (o *Outlet) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	for _, receipt := range o.waiting {
		receipt <- errOver
	}
	clear(o.waiting)
}

// close passes on what is left of progress.
func (o *Outlet) close() {
	o.end()
	for _, name := range slices.Sorted(maps.Keys(o.values)) {
		if value, left := o.values[name].Close(); left {
			o.values[name].Pass(value)
		}
	}
}
