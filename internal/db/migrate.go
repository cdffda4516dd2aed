package db

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed migration/*.sql
var embedded embed.FS

// The tests put a migration of the future here.
var (
	migrationFiles fs.ReadFileFS = embedded
	migrations                   = []string{"001_runs"} // in order; version n is migrations[n-1]
)

// Version is the version of the schema that this program was written for. It
// also runs on the next one, so that a migration can go before the program.
var Version = len(migrations)

func versionError(q *Queries, have, low, high int) error {
	reason := fmt.Sprintf("is at version %d, this program needs %d to %d: ", have, low, high)
	switch {
	case have == 0:
		reason = "is not there, or has no tables: apply the migrations (workflow.Migrate)"
	case have < low:
		reason += "apply the migrations (workflow.Migrate)"
	default:
		reason += "deploy a newer program, or migrate down by one version"
	}
	return &SchemaError{Schema: q.Schema, Reason: reason, Have: have, Low: low, High: high}
}

// MigrateOptions says what [Migrate] does.
type MigrateOptions struct {
	Down, Force bool
	Print       io.Writer

	ClientRole, WorkerRole, BrokerRole string
}

// Migrate brings the schema up to Version, or down by one.
func Migrate(ctx context.Context, pool *pgxpool.Pool, q *Queries, o MigrateOptions) error {
	if o.Down {
		return down(ctx, pool, q, o)
	}
	have, err := Have(ctx, pool, q)
	if err != nil {
		return err
	}
	if have > Version+1 {
		return versionError(q, have, Version, Version+1)
	}
	steps, err := up(q, have)
	if err != nil {
		return err
	}
	grants, err := grantSQL(q, o)
	if err != nil {
		return err
	}
	if o.Print != nil {
		return printUp(ctx, pool, q, steps, grants, o.Print)
	}
	for _, sql := range steps {
		if err := apply(ctx, pool, q, sql); err != nil {
			return err
		}
	}
	if err := riverUp(ctx, pool, q); err != nil {
		return err
	}
	if grants == "" {
		return nil
	}
	return apply(ctx, pool, q, grants)
}

// Have returns the version of the schema; 0 when it does not exist.
func Have(ctx context.Context, pool *pgxpool.Pool, q *Queries) (int, error) {
	var have int
	err := pool.QueryRow(ctx, q.in("SELECT coalesce(max(version), 0) FROM stepward.migration")).Scan(&have)
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && (pgErr.Code == "42P01" || pgErr.Code == "3F000") {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("workflow: read the version of schema %s: %w", q.Schema, err)
	}
	return have, nil
}

// Explain returns a [SchemaError] in the place of an error that Postgres gives because a table, a column or a function
// is not there, when the version of the schema is why. Both are in it, and its text is that of the reason: what is not there
// says nothing to who reads it. It is a part of a package's error, which says whose it is.
func Explain(ctx context.Context, pool *pgxpool.Pool, q *Queries, err error) error {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.Code {
	case "42P01", "42703", "42883", "3F000":
	default:
		return err
	}
	// In a transaction of the application this is a second connection, which its
	// pool may not have.
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	var version *SchemaError
	if errors.As(Check(ctx, pool, q), &version) {
		return &explained{version, err}
	}
	return err
}

const explainTimeout = 2 * time.Second

type explained struct {
	version *SchemaError
	err     error
}

func (e *explained) Error() string { return strings.TrimPrefix(e.version.Error(), "workflow: ") }

func (e *explained) Unwrap() []error { return []error{e.version, e.err} }

// Check returns a [SchemaError] unless this program runs on the schema.
func Check(ctx context.Context, pool *pgxpool.Pool, q *Queries) error {
	have, err := Have(ctx, pool, q)
	if err != nil {
		return err
	}
	if have < Version || have > Version+1 {
		return versionError(q, have, Version, Version+1)
	}
	return nil
}

// up returns the statements of each migration after version have.
func up(q *Queries, have int) ([]string, error) {
	var steps []string
	if have == 0 {
		steps = append(steps, q.in("CREATE SCHEMA IF NOT EXISTS stepward;\n"+
			"CREATE SCHEMA IF NOT EXISTS stepward_river;\n"+
			"CREATE TABLE IF NOT EXISTS stepward.migration (version int PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp());\n"))
	}
	for i, name := range migrations {
		if i < have {
			continue
		}
		text, err := migrationFiles.ReadFile("migration/" + name + ".up.sql")
		if err != nil {
			return nil, err
		}
		// The row comes first: of two that migrate at once, the second waits
		// for it, then finds that nothing is left to do.
		steps = append(steps, q.in(fmt.Sprintf("INSERT INTO stepward.migration (version) VALUES (%d);\n%s", i+1, text)))
	}
	return steps, nil
}

// apply runs one migration in a transaction. A lock that cannot be had in two
// seconds is given up and asked for again, so that no worker queues behind it.
func apply(ctx context.Context, pool *pgxpool.Pool, q *Queries, sql string) error {
	for attempt := 1; ; attempt++ {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '2s';\nSELECT pg_advisory_xact_lock(hashtext("+quote(q.Schema)+"));\n"+sql)
			return err
		})
		var pgErr *pgconn.PgError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &pgErr) && pgErr.Code == "23505" && pgErr.TableName == "migration":
			return nil // somebody else applied it
		case errors.As(err, &pgErr) && pgErr.Code == "55P03" && attempt < 30:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Second):
			}
		default:
			return fmt.Errorf("workflow: migrate schema %s: %w", q.Schema, err)
		}
	}
}

func grantSQL(q *Queries, o MigrateOptions) (string, error) {
	text, err := migrationFiles.ReadFile("migration/grants.sql")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	roles := map[string]string{":client": o.ClientRole, ":worker": o.WorkerRole, ":broker": o.BrokerRole}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "--") {
			continue
		}
		all := true
		line = q.in(line)
		for mark, role := range roles {
			if strings.Contains(line, mark) {
				all = all && role != ""
				line = strings.ReplaceAll(line, mark, pgx.Identifier{role}.Sanitize())
			}
		}
		if all {
			b.WriteString(line)
		}
	}
	return b.String(), nil
}

// printUp writes what Migrate would run, River's migrations included.
func printUp(ctx context.Context, pool *pgxpool.Pool, q *Queries, steps []string, grants string, w io.Writer) error {
	var b strings.Builder
	for _, sql := range steps {
		fmt.Fprintf(&b, "BEGIN;\n%sCOMMIT;\n\n", sql)
	}
	river, err := riverSQL(ctx, pool, q)
	if err != nil {
		return err
	}
	b.WriteString(river)
	b.WriteString(grants)
	_, err = io.WriteString(w, b.String())
	return err
}

// down undoes the newest migration. Going back to no schema at all deletes
// everything, so it asks for stopped workers and for Force.
func down(ctx context.Context, pool *pgxpool.Pool, q *Queries, o MigrateOptions) error {
	have, err := Have(ctx, pool, q)
	if err != nil || have == 0 {
		return err
	}
	if have > len(migrations) {
		return versionError(q, have, 1, Version)
	}
	text, err := migrationFiles.ReadFile("migration/" + migrations[have-1] + ".down.sql")
	if err != nil {
		return err
	}
	sql := q.in(fmt.Sprintf("DELETE FROM stepward.migration WHERE version = %d;\n%s", have, text))
	if have == 1 {
		sql += q.in("DROP TABLE stepward.migration;\nDROP SCHEMA stepward;\nDROP SCHEMA stepward_river CASCADE;\n")
	}
	if o.Print != nil {
		_, err := io.WriteString(o.Print, "BEGIN;\n"+sql+"COMMIT;\n")
		return err
	}
	if have == 1 {
		var live, runs int
		err := pool.QueryRow(ctx, q.in(`SELECT (SELECT count(*) FROM stepward.worker WHERE state IN ('live', 'draining') AND lease_until > clock_timestamp()),
			(SELECT count(*) FROM stepward.run)`)).Scan(&live, &runs)
		if err != nil {
			return fmt.Errorf("workflow: migrate down: %w", err)
		}
		if live > 0 {
			return &SchemaError{Schema: q.Schema, Workers: live, Runs: runs,
				Reason: fmt.Sprintf("is used by %d workers that run: stop them before migrating down from version 1", live)}
		}
		if !o.Force {
			return &SchemaError{Schema: q.Schema, Runs: runs,
				Reason: fmt.Sprintf("would be deleted, with %d runs, their steps and their audit events: set Force to migrate down from version 1", runs)}
		}
	}
	return apply(ctx, pool, q, sql)
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
