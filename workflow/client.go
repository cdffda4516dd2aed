package workflow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/stepward/stepward/internal/batch"
	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/payload"
)

// ClientConfig configures [NewClient]. Every field but Pool may be left zero.
type ClientConfig struct {
	Pool *pgxpool.Pool // required; the client never closes it

	// Schema is the Postgres schema of Stepward's tables; River's are in
	// Schema + "_river". Defaults to "stepward".
	Schema string

	// MaxBytes is the limit of an encoded input. Defaults to 1 MiB;
	// at most 64 MiB.
	MaxBytes int

	// Codec is applied to every value before it is stored. Defaults to none.
	Codec Codec

	// Blobs keeps values of more than 64 KiB. Defaults to a table.
	Blobs BlobStore

	// Logger defaults to slog.Default.
	Logger *slog.Logger

	// TracerProvider defaults to OpenTelemetry's global one.
	TracerProvider trace.TracerProvider
}

// A Client plans: it enqueues runs, asks about them and cancels them. It never
// executes a step. It is safe for concurrent use and needs no closing. It holds
// no goroutine, but for one with a connection of its own while somebody tails a
// stream or waits for a result.
type Client struct {
	pool     *pgxpool.Pool
	q        *db.Queries
	river    *river.Client[pgx.Tx]
	enqueues *batch.Group[enqueue.Item, enqueue.Result] // without a key
	keyed    *batch.Group[enqueue.Item, enqueue.Result] // may wait for other transactions
	looks    *batch.Group[int64, sight]
	memory   enqueue.Memory
	maxBytes int
	box      *payload.Box
	tracer   trace.Tracer
	watches  watches
}

// NewClient makes a client. It does not connect.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Pool == nil {
		return nil, fmt.Errorf("workflow: ClientConfig.Pool is required")
	}
	q, err := db.New(cfg.Schema)
	if err != nil {
		return nil, err
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = engine.MaxBytesDefault
	}
	if cfg.MaxBytes < 0 || cfg.MaxBytes > payload.MaxBytes {
		return nil, &OptionError{Option: "ClientConfig.MaxBytes", Reason: fmt.Sprintf("%d is not within 0 and %d", cfg.MaxBytes, payload.MaxBytes)}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.TracerProvider == nil {
		cfg.TracerProvider = otel.GetTracerProvider()
	}
	rc, err := river.NewClient(riverpgxv5.New(cfg.Pool), &river.Config{
		Schema: q.River, Logger: cfg.Logger,
		// Of a client that only inserts, this is how long after a notification
		// another one is left out. A ticket without one waits for a poll.
		FetchCooldown: river.FetchCooldownMin,
	})
	if err != nil {
		return nil, fmt.Errorf("workflow: %w", err)
	}
	c := &Client{pool: cfg.Pool, q: q, river: rc, maxBytes: cfg.MaxBytes, tracer: cfg.TracerProvider.Tracer("github.com/stepward/stepward")}
	c.box = &payload.Box{Codec: cfg.Codec, Store: cfg.Blobs, Pool: cfg.Pool, Q: q}
	for _, g := range []**batch.Group[enqueue.Item, enqueue.Result]{&c.enqueues, &c.keyed} {
		*g = &batch.Group[enqueue.Item, enqueue.Result]{
			Run: c.insertBatch, MaxItems: 512, MaxBytes: 4 << 20, Impatient: true,
			Size: func(i enqueue.Item) int { return len(i.Input) },
		}
	}
	c.looks = &batch.Group[int64, sight]{Run: c.lookBatch, MaxItems: lookMax}
	return c, nil
}

// Check returns a *[SchemaError] when this program cannot run on the
// schema, and another error when Postgres cannot be asked. Use it as a health
// check.
func (c *Client) Check(ctx context.Context) error { return db.Check(ctx, c.pool, c.q) }

// explain puts a *[SchemaError] in the place of an error that Postgres gives because a
// table, a column or a function is not there, when the version of the schema is why.
func (c *Client) explain(ctx context.Context, err error) error {
	return db.Explain(ctx, c.pool, c.q, err)
}

// insertOne adds a run together with others.
func (c *Client) insertOne(ctx context.Context, item enqueue.Item) (enqueue.Result, error) {
	if item.Key != "" {
		return c.keyed.Do(ctx, item)
	}
	return c.enqueues.Do(ctx, item)
}

// enqueueTimeout bounds one batch of enqueues.
const enqueueTimeout = 30 * time.Second

// insertBatch commits runs that were enqueued together, with one ticket. One
// bad row must not fail the others: a batch that Postgres refused is repeated one
// by one.
func (c *Client) insertBatch(ctx context.Context, items []enqueue.Item) ([]enqueue.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, enqueueTimeout)
	defer cancel()
	results, err := c.insert(ctx, items)
	for try := 1; try < 3 && conflicts(err); try++ {
		results, err = c.insert(ctx, items)
	}
	var refused *pgconn.PgError // nothing of it was committed; any other error leaves that open
	if err == nil || len(items) == 1 || !errors.As(err, &refused) {
		return results, err
	}
	results = make([]enqueue.Result, len(items))
	for i := range items {
		one, err := c.insert(ctx, items[i:i+1])
		if err != nil {
			results[i].Err = err
			continue
		}
		results[i] = one[0]
	}
	return results, nil
}

// conflicts reports that Postgres chose this transaction to give way to
// another: a deadlock, or a serialization failure.
func conflicts(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && (refused.Code == pgerrDeadlock || refused.Code == pgerrSerialization)
}

const (
	pgerrDeadlock      = "40P01"
	pgerrSerialization = "40001"
)

func (c *Client) insert(ctx context.Context, items []enqueue.Item) (results []enqueue.Result, err error) {
	err = pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		results, err = c.insertTx(ctx, tx, items)
		return err
	})
	return results, err
}

func (c *Client) insertTx(ctx context.Context, tx pgx.Tx, items []enqueue.Item) ([]enqueue.Result, error) {
	results, err := c.memory.Insert(ctx, tx, c.q, items)
	if err != nil {
		return nil, err
	}
	return results, c.announceAll(ctx, tx, results)
}

// announceAll adds a ticket for every hundred of the runs that were added.
func (c *Client) announceAll(ctx context.Context, tx pgx.Tx, results []enqueue.Result) error {
	ticket, ok := enqueue.Announcement(results)
	if !ok {
		return nil
	}
	if ticket.Count <= runsPerTicket {
		_, err := c.river.InsertTx(ctx, tx, ticket, nil)
		return err
	}
	var tickets []river.InsertManyParams
	for left := ticket.Count; left > 0; left -= runsPerTicket {
		tickets = append(tickets, river.InsertManyParams{Args: enqueue.Ticket{Count: min(left, runsPerTicket)}})
	}
	_, err := c.river.InsertManyFastTx(ctx, tx, tickets)
	return err
}

const runsPerTicket = 100
