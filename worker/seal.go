package worker

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/payload"
	"github.com/stepward/stepward/workflow"
)

const (
	// openPatience is how long a codec or a blob store may fail to give a value
	// back before the run is parked.
	openPatience = 30 * time.Second

	// sealTimeout bounds one call of them.
	sealTimeout = time.Minute

	// sealsAtOnce is how many values of one turn are sealed at a time.
	sealsAtOnce = 8
)

// seal turns what a turn wants to be durable into what is stored of it. Large
// values are written apart here, before they meet a batch. A call that fails is
// repeated, so each keeps the values until all of its own are sealed.
func (h *host) seal(ctx context.Context, b engine.Batch) (write, error) {
	x := write{t: h.t, Batch: b}
	var todo []func(context.Context) error
	seal := func(f func(context.Context) error) { todo = append(todo, f) }
	for i := range x.Checkpoints {
		c := &x.Checkpoints[i]
		if h.w.box.Plain(c.Output) && h.w.box.Plain(c.Error) {
			continue
		}
		seal(func(ctx context.Context) error {
			v := &c.Output
			if len(c.Error) > 0 {
				v = &c.Error
			}
			stored, hash, err := h.w.box.SealHashed(ctx, *v, c.InputHash)
			if err == nil {
				*v, c.InputHash = stored, hash
			}
			return err
		})
	}
	for i := range x.Failures {
		f := &x.Failures[i]
		if h.w.box.Plain(f.Error) && h.w.box.Plain(f.Details) {
			continue
		}
		seal(func(ctx context.Context) error {
			failure, err := h.w.box.SealInline(ctx, f.Error)
			if err != nil {
				return err
			}
			details := f.Details
			if details != nil {
				if details, err = h.w.box.SealInline(ctx, details); err != nil {
					return err
				}
			}
			f.Error, f.Details = failure, details
			return nil
		})
	}
	inline := func(v *[]byte) {
		if h.w.box.Plain(*v) {
			return
		}
		seal(func(ctx context.Context) error {
			stored, err := h.w.box.SealInline(ctx, *v)
			if err == nil {
				*v = stored
			}
			return err
		})
	}
	for i := range x.Entries {
		inline(&x.Entries[i].Payload)
	}
	for i := range x.Progress {
		inline(&x.Progress[i].Value)
	}
	for i := range x.Beats {
		inline(&x.Beats[i].Details)
	}
	if b.End != nil {
		end := *b.End // the turn's own stays as it is
		x.End = &end
		if !h.w.box.Plain(end.Error) || !h.w.box.Plain(end.Output) {
			seal(func(ctx context.Context) error {
				failure, err := h.w.box.SealInline(ctx, end.Error)
				if err != nil {
					return err
				}
				output, err := h.w.box.Seal(ctx, end.Output)
				if err == nil {
					end.Error, end.Output = failure, output
				}
				return err
			})
		}
	}
	if err := h.all(ctx, todo); err != nil {
		return x, err
	}
	for _, c := range x.Checkpoints {
		x.blobs.Add(h.t.run, c.Output, c.Error)
	}
	if x.End != nil {
		x.blobs.Add(h.t.run, x.End.Output)
	}
	return x, nil
}

// all calls several functions, a few at a time, and returns an error of one.
func (h *host) all(ctx context.Context, todo []func(context.Context) error) error {
	if len(todo) == 0 {
		return nil
	}
	errs := make([]error, len(todo))
	var group sync.WaitGroup
	places := make(chan struct{}, sealsAtOnce)
	for i, f := range todo[1:] {
		places <- struct{}{}
		group.Go(func() {
			errs[i+1] = h.patiently(ctx, 0, f)
			<-places
		})
	}
	errs[0] = h.patiently(ctx, 0, todo[0])
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// open returns what is stored. It implements engine.Turn.Open.
func (h *host) open(ctx context.Context, stored []byte) (v []byte, hash uint64, err error) {
	if _, sealed := payload.Sealed(stored); !sealed {
		return stored, 0, nil
	}
	err = h.patiently(ctx, openPatience, func(ctx context.Context) (err error) {
		v, hash, err = h.w.box.OpenHashed(ctx, stored)
		return err
	})
	return v, hash, err
}

// patiently calls f, which asks a codec or a blob store, until it succeeds, for as
// long as the turn's session lasts; with a limit, no longer than that. What is in
// vain parks the run.
func (h *host) patiently(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	began := time.Now()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if h.w.lease.session() != h.t.session {
			return engine.ErrLeaseLost
		}
		try, cancel := context.WithTimeout(ctx, sealTimeout)
		err := f(try)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case payload.Permanent(err) && limit == 0:
			return &engine.ParkError{Reason: "unencodable", Err: err}
		case payload.Permanent(err):
			return &engine.ParkError{Reason: "undecodable", Err: err}
		case limit > 0 && time.Since(began) > limit:
			return &engine.ParkError{Reason: "unreadable", Err: err}
		}
		h.w.log.WarnContext(ctx, "trying again", "run", workflow.RunID(h.t.run).String(), "error", err)
		select {
		case <-ctx.Done():
		case <-h.w.lease.ended():
		case <-time.After(pause):
		}
	}
}

// plainError is what is stored of an error of the codec itself.
func plainError(err error) []byte {
	b, jsonErr := json.Marshal(workflow.RecordedError{Message: err.Error(), Kind: "encode"})
	if jsonErr != nil { // a string: cannot happen
		return nil
	}
	return b
}
