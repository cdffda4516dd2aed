-- name: AttemptDispatch
-- What is written before a step leaves for a sandbox: with the event, if it is there already. No row: the lease is lost.
WITH held AS MATERIALIZED (
    SELECT r.id FROM stepward.run r WHERE r.id = $2 AND r.epoch = $3 AND r.session = $1 AND r.state = 'live'
    FOR NO KEY UPDATE NOWAIT
), begun AS (
    INSERT INTO stepward.attempt (run_id, seq, key, attempt, epoch, mode, started_at, sandbox_id)
    SELECT id, $4, $5, $6, $3, $7, clock_timestamp(), $8 FROM held
    ON CONFLICT DO NOTHING RETURNING run_id
), told AS (
    INSERT INTO stepward.event (run_id, kind, actor, step, detail)
    SELECT run_id, 'sandbox.created', $10::text, $5, $11::bytea FROM begun WHERE $11 IS NOT NULL
), made AS (
    INSERT INTO stepward.sandbox (id, run_id, session, backend) SELECT $8, id, $1, $9 FROM held
    ON CONFLICT (id) DO UPDATE SET run_id = excluded.run_id WHERE sandbox.run_id IS NULL
)
SELECT id FROM held;

-- name: SandboxWarm
-- One that is made ahead of need.
INSERT INTO stepward.sandbox (id, session, backend) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: SandboxCreated
-- The detail names the sandbox, so that a statement whose answer was lost can be repeated.
INSERT INTO stepward.event (run_id, kind, actor, step, detail)
SELECT $1::bigint, 'sandbox.created', $2::text, $3::text, $4::bytea
WHERE NOT EXISTS (SELECT FROM stepward.event e WHERE e.run_id = $1 AND e.kind = 'sandbox.created' AND e.detail = $4);

-- name: SandboxEgress
-- The totals of a sandbox so far. The newest event of a sandbox has all; one whose answer was lost can be repeated.
INSERT INTO stepward.event (run_id, kind, actor, step, detail)
SELECT $1::bigint, 'sandbox.egress', $2::text, $3::text, $4::bytea
WHERE NOT EXISTS (SELECT FROM stepward.event e WHERE e.run_id = $1 AND e.kind = 'sandbox.egress' AND e.detail = $4);

-- name: SandboxDestroyed
-- With what its commands used, where that is known. One that nobody has used leaves nothing behind.
WITH gone AS (
    UPDATE stepward.sandbox SET destroyed_at = clock_timestamp()
    WHERE id = ANY($1::text[]) AND destroyed_at IS NULL AND run_id IS NOT NULL RETURNING run_id, id
), unused AS (
    DELETE FROM stepward.sandbox WHERE id = ANY($1::text[]) AND run_id IS NULL
)
INSERT INTO stepward.event (run_id, kind, actor, detail)
SELECT run_id, 'sandbox.destroyed', $2::text, convert_to((jsonb_build_object('sandbox', id) || coalesce($3::jsonb, '{}'))::text, 'UTF8') FROM gone;

-- name: SandboxOrphans
-- Sandboxes on record whose worker is gone.
SELECT b.id FROM stepward.sandbox b LEFT JOIN stepward.worker w ON w.session = b.session
WHERE b.destroyed_at IS NULL AND b.backend = $1 AND (w.session IS NULL OR w.state IN ('dead', 'gone'))
LIMIT 500;

-- name: SessionsAlive
SELECT session FROM stepward.worker WHERE state IN ('live', 'draining') AND session = ANY($1::bigint[]);
