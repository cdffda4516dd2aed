package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/bench/measure"
)

// walTable notes where the WAL bytes of n runs went: by table or index, and by
// kind of record.
func (b *bench) walTable(ctx context.Context, schema, what string, x measure.Cost, n int) error {
	if _, err := b.cluster.Pool.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS pg_walinspect"); err != nil {
		return fmt.Errorf("-wal: %w", err)
	}
	rows, err := b.cluster.Pool.Query(ctx, `
		SELECT coalesce(c.relname, r.resource_manager), r.record_type, count(*), sum(r.record_length + 7 & ~7) -- as aligned
		FROM pg_get_wal_records_info('0/0'::pg_lsn + $1::numeric, '0/0'::pg_lsn + $2::numeric) r
		LEFT JOIN pg_class c ON pg_relation_filenode(c.oid) = substring(r.block_ref FROM 'rel \d+/\d+/(\d+)')::oid
			AND c.relnamespace IN ($3::regnamespace, ($3 || '_river')::regnamespace)
		GROUP BY 1, 2 ORDER BY 4 DESC`, x.From.LSN(), x.To.LSN(), schema)
	if err != nil {
		return err
	}
	var rel, record string
	var count, size int64
	_, err = pgx.ForEachRow(rows, []any{&rel, &record, &count, &size}, func() error {
		if size*200 >= int64(x.Bytes) {
			b.report.note("WAL of %s: %-24s %-14s %6.2f records, %7.1f B per run", what, rel, record, float64(count)/float64(n), float64(size)/float64(n))
		}
		return nil
	})
	return err
}
