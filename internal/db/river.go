package db

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// unusedIndexes are River's indexes that no query of ours needs. They cost more
// to maintain than the rest of a ticket.
var unusedIndexes = []string{"river_job_args_index", "river_job_metadata_index", "river_job_kind"}

func riverMigrator(pool *pgxpool.Pool, q *Queries) (*rivermigrate.Migrator[pgx.Tx], error) {
	return rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: q.River})
}

// riverUp applies River's migrations. River needs a transaction for each, so
// the lock that keeps others out is held by one beside them. Its connection is
// not the pool's: several that wait for the lock would leave none to its holder.
func riverUp(ctx context.Context, pool *pgxpool.Pool, q *Queries) error {
	m, err := riverMigrator(pool, q)
	if err != nil {
		return err
	}
	cfg := pool.Config()
	if cfg.BeforeConnect != nil { // it may fetch the password
		if err := cfg.BeforeConnect(ctx, cfg.ConnConfig); err != nil {
			return fmt.Errorf("workflow: migrate schema %s: %w", q.River, err)
		}
	}
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return fmt.Errorf("workflow: migrate schema %s: %w", q.River, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = pgx.BeginFunc(ctx, conn, func(lock pgx.Tx) error {
		if _, err := lock.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext("+quote(q.River)+"))"); err != nil {
			return err
		}
		if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
			return err
		}
		_, err := pool.Exec(ctx, dropIndexes(q))
		return err
	})
	if err != nil {
		return fmt.Errorf("workflow: migrate schema %s: %w", q.River, err)
	}
	return nil
}

// riverSQL returns what riverUp would run: a transaction for each of River's
// migrations that is not applied.
func riverSQL(ctx context.Context, pool *pgxpool.Pool, q *Queries) (string, error) {
	m, err := riverMigrator(pool, q)
	if err != nil {
		return "", err
	}
	applied, err := m.ExistingVersions(ctx)
	if err != nil {
		return "", fmt.Errorf("workflow: read the version of schema %s: %w", q.River, err)
	}
	var b, rows strings.Builder
	schema := pgx.Identifier{q.River}.Sanitize()
	for _, v := range m.AllVersions() {
		if slices.ContainsFunc(applied, func(a rivermigrate.Migration) bool { return a.Version == v.Version }) {
			continue
		}
		fmt.Fprintf(&b, "BEGIN; -- River %d\n%s\nCOMMIT;\n\n", v.Version, strings.ReplaceAll(v.SQLUp, "/* TEMPLATE: schema */", schema+"."))
		// Last: the first migrations make this table, and change it.
		fmt.Fprintf(&rows, "INSERT INTO %s.river_migration (line, version) VALUES ('main', %d);\n", schema, v.Version)
	}
	if rows.Len() > 0 {
		b.WriteString(rows.String() + dropIndexes(q))
	}
	return b.String(), nil
}

func dropIndexes(q *Queries) string {
	var b strings.Builder
	for _, name := range unusedIndexes {
		b.WriteString(q.in("DROP INDEX IF EXISTS stepward_river."+name) + ";\n")
	}
	return b.String()
}
