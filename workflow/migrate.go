package workflow

import (
	"context"
	"io"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/db"
)

// MigrateOptions configures [Migrate].
type MigrateOptions struct {
	Schema string // as [ClientConfig].Schema

	// Print writes the SQL that Migrate would run, and runs nothing.
	Print io.Writer

	// ClientRole, WorkerRole and BrokerRole are granted what a client, a worker and
	// a broker need. The roles must exist. Empty grants nothing. Where a broker has a role, a worker's, if it is given
	// with it, may not record what is issued: each worker then needs a Broker in its worker.Config.
	ClientRole, WorkerRole, BrokerRole string

	// Down undoes the newest migration instead. Undoing the first deletes
	// everything: it fails with a *[SchemaError] that says what, until Force is
	// set, and while workers run.
	Down, Force bool
}

// Migrate brings Stepward's schema, and River's beside it, to the version that
// this program was written for. It may be called by several processes at once,
// and while workers run: a program works on its own version and on the next.
func Migrate(ctx context.Context, pool *pgxpool.Pool, o MigrateOptions) error {
	if pool == nil {
		return &OptionError{Option: "pool of Migrate", Reason: "is required"}
	}
	q, err := db.New(o.Schema)
	if err != nil {
		return err
	}
	return db.Migrate(ctx, pool, q, db.MigrateOptions{Down: o.Down, Force: o.Force, Print: o.Print, ClientRole: o.ClientRole, WorkerRole: o.WorkerRole, BrokerRole: o.BrokerRole})
}
