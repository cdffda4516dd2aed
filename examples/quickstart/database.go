package main

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/devdb"
	"github.com/stepward/stepward/workflow"
)

// database is a Postgres that has Stepward's tables.
type database struct {
	server *devdb.DB
	pool   *pgxpool.Pool
	schema string
	client *workflow.Client
}

// openDatabase takes the server of DATABASE_URL, or starts one that lives as
// long as it is used. An application would just connect to its own.
func openDatabase(ctx context.Context, screen *screen) (_ *database, err error) {
	d := &database{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.server, err = devdb.Open(ctx, devdb.Config{}); err != nil {
		return nil, err
	}
	// The throw-away server is shared with whatever else runs at the moment.
	d.schema = "quickstart_" + strings.ToLower(rand.Text()[:8])
	if d.server.Way == devdb.WayURL {
		d.schema = "stepward_quickstart"
	}
	screen.printf("postgres    %s, schema %s", strings.Replace(d.server.Source, ", ", ",\n            ", 1), d.schema)
	if d.pool, err = pgxpool.New(ctx, d.server.URL); err != nil {
		return nil, err
	}
	if err = workflow.Migrate(ctx, d.pool, workflow.MigrateOptions{Schema: d.schema}); err != nil {
		return nil, err
	}
	d.client, err = workflow.NewClient(workflow.ClientConfig{Pool: d.pool, Schema: d.schema})
	return d, err
}

func (d *database) close() {
	if d.pool != nil {
		d.pool.Close()
	}
	if d.server != nil {
		d.server.Close()
	}
}
