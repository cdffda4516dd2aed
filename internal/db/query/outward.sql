-- name: ShownGet
SELECT done, n FROM stepward.shown WHERE run_id = $1;

-- name: EntryList
-- One row at least, for a run that exists. A run that has ended and a page that is not full are the end:
-- both are of one snapshot.
SELECT r.state <> 'live', r.epoch, e.id, e.at, e.step, e.attempt, e.payload
FROM stepward.run r LEFT JOIN LATERAL (
    SELECT id, at, step, attempt, payload FROM stepward.entry WHERE run_id = r.id AND stream = $2 AND id > $3 ORDER BY id LIMIT $4
) e ON true
WHERE r.id = $1 ORDER BY e.id;

-- name: ProgressList
-- One row at least, for a run that exists. $2: one name, or all.
SELECT p.name, p.at, p.value
FROM stepward.run r LEFT JOIN stepward.progress p ON p.run_id = r.id AND ($2::text IS NULL OR p.name = $2)
WHERE r.id = $1;

-- name: AttributeEqual
-- Runs below $3 whose attribute $1 is $2, and whose others are in the ranges $5 to $7, newest first.
SELECT a.run_id FROM stepward.attribute a
WHERE a.name = $1 AND a.value = $2 AND a.run_id < $3
  AND NOT EXISTS (SELECT FROM unnest($5::text[], $6::bytea[], $7::bytea[]) AS x(name, low, high)
                  WHERE NOT EXISTS (SELECT FROM stepward.attribute b WHERE b.run_id = a.run_id AND b.name = x.name AND b.value >= x.low AND b.value < x.high))
ORDER BY a.run_id DESC LIMIT $4;

-- name: AttributeRange
-- The same for values from $2 to below $8. All that match are read before they are sorted: walking down the
-- runs instead, which the limit makes look cheap, may find none for long.
WITH matching AS MATERIALIZED (
    SELECT a.run_id FROM stepward.attribute a
    WHERE a.name = $1 AND a.value >= $2 AND a.value < $8 AND a.run_id < $3
      AND NOT EXISTS (SELECT FROM unnest($5::text[], $6::bytea[], $7::bytea[]) AS x(name, low, high)
                      WHERE NOT EXISTS (SELECT FROM stepward.attribute b WHERE b.run_id = a.run_id AND b.name = x.name AND b.value >= x.low AND b.value < x.high))
)
SELECT run_id FROM matching ORDER BY run_id DESC LIMIT $4;

-- name: Watch
-- Asks who holds the run $2 to tell its watchers.
SELECT pg_notify($1::text, '?' || $2::bigint);
