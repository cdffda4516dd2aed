-- name: BlobPut
-- Before what refers to it is written. $2 is null when the application's store has the value.
INSERT INTO stepward.blob (key, data) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: BlobGet
SELECT data FROM stepward.blob WHERE key = $1;

-- name: BlobUse
-- In the transaction that writes the references.
WITH used AS (
    INSERT INTO stepward.blob_use (run_id, key, signal)
    SELECT x.run_id, x.key, $3 FROM unnest($1::bigint[], $2::text[]) AS x(run_id, key)
    ON CONFLICT DO NOTHING
)
UPDATE stepward.blob SET loose = false WHERE key = ANY($2);

-- name: BlobLoose
-- Blobs that nothing refers to, $1 seconds after they were written; without $2, those in the table. One
-- that an open transaction is about to use is locked.
SELECT key, data IS NULL FROM stepward.blob b
WHERE loose AND at < clock_timestamp() - make_interval(secs => $1::float8)
  AND ($2 OR data IS NOT NULL)
  AND NOT EXISTS (SELECT FROM stepward.blob_use u WHERE u.key = b.key)
ORDER BY at LIMIT $3 FOR UPDATE SKIP LOCKED;

-- name: BlobDelete
-- After BlobLoose, in its transaction.
DELETE FROM stepward.blob WHERE key = ANY($1::text[]);
