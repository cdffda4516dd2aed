package workflow

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/payload"
)

// EnqueueOptions configures [DurableWorkflow.Enqueue], and the runs that a body
// starts, by [DurableWorkflow.With].
type EnqueueOptions struct {
	// Tenant is the customer on whose behalf the run works. Up to 200 bytes.
	Tenant string

	// Key makes the call idempotent for its tenant: a second call with the
	// same key, workflow and input returns the first one's run, and one with
	// another workflow or input fails with a *[KeyConflictError]. Up to 200
	// bytes. While another transaction holds the same key, the call waits for
	// it, for half a minute at most, and so may the client's other calls with a
	// key.
	Key string

	// Priority puts a run before others of its tenant, from -1,000 to 1,000,
	// higher ones first. Each step is worth a minute: of two runs that wait,
	// one goes first whose priority is higher by n, unless the other was
	// enqueued more than n minutes earlier. So nothing waits for ever. Between
	// tenants it counts for nothing: they take turns. 0 of a child is the priority
	// of its parent: 1 or -1 is close to none.
	Priority int

	// Attributes are tags that [Client.Runs] finds the run by: up to 16, each
	// with a name as a step has one, and a string of up to 200 bytes, an
	// integer, a float64, a bool or a time.Time. When Key finds an earlier run,
	// they are not added to it. They are stored as they are, also with a [Codec]:
	// what can be searched can be read. Put no secret into one.
	Attributes map[string]any

	// Timeout bounds the run from this call to its end, waits included, by the
	// clock of Postgres. When it passes, the run is canceled: the durable calls of
	// its body return [ErrCanceled], so that it tells this from a wait of its own
	// that took too long, and what it gave to [Context].Finally is called. It ends
	// as failed when its body returns an error; Result's error is [ErrTimeout]. A
	// run that has not begun, or is parked, fails at once. It takes any worker to
	// notice, within about a second. A run that [Client.Retry] brings back has none
	// any more. 0 is none.
	Timeout time.Duration

	// Limit, if it has a Key, holds the run back while those that share it
	// are too many.
	Limit Limit

	// Project and Environment say which of the tenant's profiles apply to the run,
	// beside those that say neither: see package identity. A child that is given neither
	// has those of the run that starts it. Up to 200 bytes each.
	Project, Environment string

	// Keys are of this run, and the narrowest of all profiles: they may hide, restrict
	// and re-point what the tenant's profiles set, and add no name. They hold for its
	// children, too. They cannot name a reference that a profile restricts under another name.
	Keys map[string]identity.Key
}

// An OptionError reports a field of an options struct that cannot be used.
type OptionError struct{ Option, Reason string }

func (e *OptionError) Error() string { return "workflow: " + e.Option + ": " + e.Reason }

// Enqueue adds a run. When it returns, the run is durable. A workflow that no
// worker has defined yet is accepted, and waits for one that does.
//
// A run whose steps list secrets is bound to what its tenant's profiles give them now:
// later it gets less, never more. When a required one is not set, or something is
// revoked, the error is an *[identity.KeyError], and nothing is added.
//
// Calls that arrive together share a transaction; those with a Key have others
// than those without. When ctx ends first, the error wraps ctx's, and the run may
// have been added all the same: use Key to find out.
func (w DurableWorkflow[In, Out]) Enqueue(ctx context.Context, c *Client, in In, o EnqueueOptions) (Run[Out], error) {
	return enqueueWith(ctx, w, c, c.box, in, o, c.insertOne)
}

// EnqueueTx adds a run in the application's own transaction: it exists when tx
// commits. After a typed error of this package tx goes on as if EnqueueTx had
// not been called; after one of Postgres it can only be rolled back.
//
// Until tx ends, others wait that use the same Key, that are the first to
// name the same workflow before any worker has defined it, or that name the same
// Limit while tx is the first to do so, or with other numbers; the claims of runs with
// such a Limit pass it over meanwhile.
//
// With a [BlobStore], an input of more than 64 KiB takes a connection of the
// client's Pool for a moment, beside that of tx.
func (w DurableWorkflow[In, Out]) EnqueueTx(ctx context.Context, c *Client, tx pgx.Tx, in In, o EnqueueOptions) (Run[Out], error) {
	return enqueueWith(ctx, w, c, c.box.In(tx), in, o, func(ctx context.Context, item enqueue.Item) (enqueue.Result, error) {
		results, err := c.insertTx(ctx, tx, []enqueue.Item{item})
		if err != nil {
			return enqueue.Result{}, err
		}
		return results[0], nil
	})
}

// Handle returns the handle of a run that was enqueued before. It asks nothing:
// whether the run exists shows when the handle is used.
func (w DurableWorkflow[In, Out]) Handle(c *Client, id RunID) Run[Out] {
	return Run[Out]{ID: id, client: c, workflow: w.Name}
}

func enqueueWith[In, Out any](ctx context.Context, w DurableWorkflow[In, Out], c *Client, box *payload.Box, in In, o EnqueueOptions,
	insert func(context.Context, enqueue.Item) (enqueue.Result, error)) (run Run[Out], err error) {
	ctx, span := c.tracer.Start(ctx, "stepward.run", trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attribute.String("stepward.workflow", w.Name)))
	defer func() {
		if err != nil {
			span.RecordError(err)
		}
		span.End()
	}()
	if err := w.plain(); err != nil {
		return run, err
	}
	item, err := c.item(ctx, box, w.Name, in, o)
	if err != nil {
		return run, err
	}
	r, err := insert(ctx, item)
	if err == nil {
		err = r.Err
	}
	err = c.explain(ctx, err)
	if run, err = added(w, c, o, r, err); err == nil {
		span.SetAttributes(attribute.String("stepward.run", run.ID.String()))
	}
	return run, err
}

// added turns what became of an item into a handle.
func added[In, Out any](w DurableWorkflow[In, Out], c *Client, o EnqueueOptions, r enqueue.Result, err error) (run Run[Out], _ error) {
	var conflict *enqueue.ConflictError
	var mode *enqueue.ModeError
	var sealed *payload.OpenError
	switch {
	case errors.As(err, &conflict):
		return run, &KeyConflictError{Tenant: o.Tenant, Key: o.Key, Run: RunID(conflict.Run)}
	case errors.As(err, &mode):
		return run, &DefinitionError{Workflow: w.Name, Reason: mode.Error()}
	case errors.As(err, &sealed):
		return run, &ValueError{Kind: "decode", What: fmt.Sprintf("what key %q of tenant %q was used for", o.Key, o.Tenant), Err: sealed}
	case err != nil:
		return run, fmt.Errorf("workflow: enqueue %s: %w", w.Name, err)
	}
	run = w.Handle(c, RunID(r.Run))
	run.Existing = r.Existing
	return run, nil
}

// item checks what is to be enqueued, and encodes it.
func (c *Client) item(ctx context.Context, box *payload.Box, name string, in any, o EnqueueOptions) (item enqueue.Item, err error) {
	if !validName.MatchString(name) {
		return item, &DefinitionError{Workflow: name, Reason: "bad name: " + nameRule}
	}
	if err := errors.Join(checkText("EnqueueOptions.Tenant", o.Tenant), checkText("EnqueueOptions.Key", o.Key)); err != nil {
		return item, err
	}
	options, err := o.encode("EnqueueOptions")
	if err != nil {
		return item, err
	}
	input, err := encode("input of workflow "+name, in, c.maxBytes)
	if err != nil {
		return item, err
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	item = enqueue.Item{Tenant: o.Tenant, Workflow: name, Key: o.Key, Input: input, Traceparent: carrier["traceparent"]}
	item.Set(options)
	if err := item.Seal(ctx, box); err != nil {
		return item, fmt.Errorf("workflow: store input of workflow %s: %w", name, err)
	}
	return item, nil
}

// encode checks what is said of a run in a struct of options, and encodes it:
// all but Tenant and Key.
func (o EnqueueOptions) encode(where string) (enqueue.Options, error) {
	out := enqueue.Options{Priority: int16(o.Priority), Timeout: o.Timeout}
	if reason := enqueue.BadPriority(o.Priority); reason != "" {
		return out, &OptionError{Option: where + ".Priority", Reason: reason}
	}
	if o.Timeout < 0 {
		return out, &OptionError{Option: where + ".Timeout", Reason: "it is negative"}
	}
	if err := o.Limit.check(where); err != nil {
		return out, err
	}
	if o.Limit.Key != "" {
		out.Limit = enqueue.Limit{Key: o.Limit.Key, Concurrency: o.Limit.Concurrency, Rate: o.Limit.Rate, Per: cmp.Or(o.Limit.Per, time.Second)}
	}
	for field, v := range map[string]string{".Project": o.Project, ".Environment": o.Environment} {
		if err := checkText(where+field, v); err != nil {
			return out, err
		}
	}
	var bad *identity.ProfileError
	if errors.As(identity.Profile{Name: "run", Keys: o.Keys}.Check(), &bad) {
		return out, &OptionError{Option: where + ".Keys", Reason: strings.TrimPrefix(bad.Key+": "+bad.Reason, ": ")}
	}
	out.Identity = engine.Identity{Project: o.Project, Environment: o.Environment}
	var err error
	if len(o.Keys) > 0 {
		if out.Identity.Keys, err = json.Marshal(o.Keys); err != nil {
			return out, err
		}
	}
	out.Attributes, err = encodeAttributes(where, o.Attributes)
	return out, err
}

// checkText checks the text of an option.
func checkText(what, v string) error {
	if reason := enqueue.BadText(v); reason != "" {
		return &OptionError{Option: what, Reason: reason}
	}
	return nil
}
