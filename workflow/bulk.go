package workflow

import (
	"context"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/payload"
)

// A part of a bulk that one transaction adds.
const (
	bulkItems = 1000
	bulkBytes = 4 << 20
)

// EnqueueMany adds many runs, a thousand or so in a transaction, and yields the
// handle or the error of each, in order. It begins when the results are ranged
// over, and takes from items as it goes, so that neither needs to fit into
// memory; it ends early when the loop does. What was yielded without an error is
// durable.
//
// An item that cannot be enqueued, for one of the reasons that Enqueue has, does
// not keep the others. When Postgres fails or ctx ends, every item of the part at hand
// gets the error, and nothing follows: whether these were added is unknown, and
// with keys, or without those that were yielded, the call can be repeated.
// Run.Existing tells of a run that had the key before, or an earlier item.
func (w DurableWorkflow[In, Out]) EnqueueMany(ctx context.Context, c *Client, items iter.Seq2[In, EnqueueOptions]) iter.Seq2[Run[Out], error] {
	return enqueueMany(ctx, w, c, c.box, items, c.insertBatch)
}

// EnqueueManyTx is EnqueueMany in the application's own transaction: the runs
// exist when tx commits. After an error of Postgres tx can only be rolled back.
func (w DurableWorkflow[In, Out]) EnqueueManyTx(ctx context.Context, c *Client, tx pgx.Tx, items iter.Seq2[In, EnqueueOptions]) iter.Seq2[Run[Out], error] {
	return enqueueMany(ctx, w, c, c.box.In(tx), items, func(ctx context.Context, part []enqueue.Item) ([]enqueue.Result, error) {
		return c.insertTx(ctx, tx, part)
	})
}

// bulk is the part at hand: of every item its options, and what became of it.
type bulk struct {
	options []EnqueueOptions
	errs    []error // of items that were refused before
	items   []enqueue.Item
	bytes   int
}

func enqueueMany[In, Out any](ctx context.Context, w DurableWorkflow[In, Out], c *Client, box *payload.Box, items iter.Seq2[In, EnqueueOptions],
	insert func(context.Context, []enqueue.Item) ([]enqueue.Result, error)) iter.Seq2[Run[Out], error] {
	return func(yield func(Run[Out], error) bool) {
		ctx, span := c.tracer.Start(ctx, "stepward.enqueue_many", trace.WithSpanKind(trace.SpanKindProducer),
			trace.WithAttributes(attribute.String("stepward.workflow", w.Name)))
		defer span.End()
		var b bulk
		flush := func() bool {
			part := b
			b = bulk{}
			return yieldPart(ctx, w, c, part, insert, yield)
		}
		for in, o := range items {
			var item enqueue.Item
			err := w.plain()
			if err == nil {
				item, err = c.item(ctx, box, w.Name, in, o)
			}
			b.options, b.errs = append(b.options, o), append(b.errs, err)
			if err == nil {
				b.items, b.bytes = append(b.items, item), b.bytes+len(item.Input)
			}
			if (len(b.options) == bulkItems || b.bytes >= bulkBytes) && !flush() {
				return
			}
		}
		flush()
	}
}

// yieldPart adds a part and yields its results. It reports whether to go on.
func yieldPart[In, Out any](ctx context.Context, w DurableWorkflow[In, Out], c *Client, b bulk,
	insert func(context.Context, []enqueue.Item) ([]enqueue.Result, error), yield func(Run[Out], error) bool) bool {
	var results []enqueue.Result
	var failed error
	if len(b.items) > 0 {
		if results, failed = insert(ctx, b.items); failed != nil {
			failed = fmt.Errorf("workflow: enqueue %s: %w", w.Name, c.explain(ctx, failed))
		}
	}
	for i, o := range b.options {
		var run Run[Out]
		err := b.errs[i]
		switch {
		case err != nil:
		case failed != nil:
			err = failed
		default:
			run, err = added(w, c, o, results[0], results[0].Err)
			results = results[1:]
		}
		if !yield(run, err) {
			return false
		}
	}
	return failed == nil
}
