-- name: AttemptDispatch
-- What is written before a step leaves for a sandbox: with an event of kind $13 and the handle, if it is there already. No row: the lease is lost.
WITH held AS MATERIALIZED (
    SELECT r.id FROM stepward.run r WHERE r.id = $2 AND r.epoch = $3 AND r.session = $1 AND r.state = 'live'
    FOR NO KEY UPDATE NOWAIT
), begun AS (
    INSERT INTO stepward.attempt (run_id, seq, key, attempt, epoch, mode, started_at, sandbox_id)
    SELECT id, $4, $5, $6, $3, $7, clock_timestamp(), $8 FROM held
    ON CONFLICT DO NOTHING RETURNING run_id
), told AS (
    INSERT INTO stepward.event (run_id, kind, actor, step, detail)
    SELECT run_id, $13::text, $10::text, $5, $11::bytea FROM begun WHERE $11 IS NOT NULL
), made AS (
    INSERT INTO stepward.sandbox (id, run_id, session, backend, handle) SELECT $8, id, $1, $9, $12::bytea FROM held
    ON CONFLICT (id) DO UPDATE SET run_id = excluded.run_id, session = excluded.session, handle = excluded.handle WHERE sandbox.run_id IS NULL
)
SELECT id FROM held;

-- name: SandboxWarm
-- One that is made ahead of need.
INSERT INTO stepward.sandbox (id, session, backend) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: AttemptTake
-- An attempt that another turn has dispatched goes on in this one, in its sandbox, if that can be opened.
-- No row: the lease is lost; no handle: nobody can. Who removes a sandbox says so first, so only one of the two
-- has it.
WITH held AS MATERIALIZED (
    SELECT r.id FROM stepward.run r WHERE r.id = $2 AND r.epoch = $3 AND r.session = $1 AND r.state = 'live'
    FOR NO KEY UPDATE NOWAIT
), other AS MATERIALIZED (
    SELECT id, session FROM stepward.sandbox WHERE id = $6 AND session <> $1 -- else an earlier try of this statement went through
), taken AS (
    UPDATE stepward.attempt a SET epoch = $3 FROM held WHERE a.run_id = held.id AND a.seq = $4 AND a.attempt = $5
), moved AS (
    UPDATE stepward.sandbox b SET session = $1 FROM held
    WHERE b.id = $6 AND b.run_id = held.id AND b.backend = $7 AND b.destroyed_at IS NULL AND b.handle IS NOT NULL
    RETURNING b.run_id, b.id, b.handle
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor, step, detail)
    SELECT moved.run_id, 'sandbox.taken', $9::text, $8::text,
           convert_to(jsonb_build_object('sandbox', moved.id, 'attempt', $5::int, 'from', to_hex(other.session))::text, 'UTF8')
    FROM moved JOIN other USING (id)
)
SELECT (SELECT handle FROM moved), ARRAY(SELECT e.guest FROM stepward.entry e
    WHERE e.run_id = held.id AND e.step = $8::text AND e.attempt = $5 AND e.guest IS NOT NULL ORDER BY e.id DESC LIMIT 200000)
FROM held;

-- name: SandboxCreated
-- The detail names the sandbox, so that a statement whose answer was lost can be repeated. It says also that what
-- was dispatched has begun. Without a detail it is the handle alone, that whoever goes on opens the sandbox with from
-- now on. It returns how many were kept: none, if the sandbox is not this turn's any more.
WITH kept AS (
    UPDATE stepward.sandbox SET handle = $5 WHERE id = $6 AND session = $7 AND destroyed_at IS NULL AND $5::bytea IS NOT NULL
      AND EXISTS (SELECT FROM stepward.run r WHERE r.id = $1 AND r.session = $7 AND r.epoch = $8)
    RETURNING id
), told AS (
    INSERT INTO stepward.event (run_id, kind, actor, step, detail)
    SELECT $1::bigint, 'sandbox.created', $2::text, $3::text, $4::bytea
    WHERE $4 IS NOT NULL
      AND NOT EXISTS (SELECT FROM stepward.event e WHERE e.run_id = $1 AND e.kind = 'sandbox.created' AND e.detail = $4)
)
SELECT count(*) FROM kept;

-- name: SandboxEgress
-- The totals of a sandbox so far. The newest event of a sandbox has all; one whose answer was lost can be repeated.
INSERT INTO stepward.event (run_id, kind, actor, step, detail)
SELECT $1::bigint, 'sandbox.egress', $2::text, $3::text, $4::bytea
WHERE NOT EXISTS (SELECT FROM stepward.event e WHERE e.run_id = $1 AND e.kind = 'sandbox.egress' AND e.detail = $4);

-- name: SandboxDestroyed
-- With what its commands used, where that is known. One that nobody has used leaves nothing behind.
WITH gone AS (
    UPDATE stepward.sandbox SET destroyed_at = clock_timestamp(), handle = NULL
    WHERE id = ANY($1::text[]) AND destroyed_at IS NULL AND run_id IS NOT NULL RETURNING run_id, id
), unused AS (
    DELETE FROM stepward.sandbox WHERE id = ANY($1::text[]) AND run_id IS NULL
)
INSERT INTO stepward.event (run_id, kind, actor, detail)
SELECT run_id, 'sandbox.destroyed', $2::text, convert_to((jsonb_build_object('sandbox', id) || coalesce($3::jsonb, '{}'))::text, 'UTF8') FROM gone;

-- name: SandboxSweep
-- Sandboxes on record that nobody has: their worker is gone, and no other will go on with them. One that
-- another worker takes at the same time has a new session, and stays. $3: seconds for somebody to take it.
WITH orphan AS MATERIALIZED (
    SELECT b.id, b.session FROM stepward.sandbox b LEFT JOIN stepward.worker w ON w.session = b.session
    WHERE b.destroyed_at IS NULL AND b.backend = $1 AND (w.session IS NULL OR w.state IN ('dead', 'gone'))
      AND (b.handle IS NULL OR w.session IS NULL OR w.lease_until < clock_timestamp() - make_interval(secs => $3::float8)
           OR NOT EXISTS (SELECT FROM stepward.run r JOIN stepward.attempt a ON a.run_id = r.id
                          WHERE r.id = b.run_id AND r.state = 'live' AND a.sandbox_id = b.id AND a.error IS NULL
                            AND NOT EXISTS (SELECT FROM stepward.step s WHERE s.run_id = a.run_id AND s.seq = a.seq)))
    ORDER BY b.id LIMIT 500
), gone AS (
    UPDATE stepward.sandbox b SET destroyed_at = clock_timestamp(), handle = NULL FROM orphan
    WHERE b.id = orphan.id AND b.session = orphan.session AND b.destroyed_at IS NULL AND b.run_id IS NOT NULL RETURNING b.run_id, b.id
), unused AS (
    DELETE FROM stepward.sandbox b USING orphan WHERE b.id = orphan.id AND b.session = orphan.session AND b.run_id IS NULL
)
INSERT INTO stepward.event (run_id, kind, actor, detail)
SELECT run_id, 'sandbox.destroyed', $2::text, convert_to(jsonb_build_object('sandbox', id)::text, 'UTF8') FROM gone;

-- name: SandboxOwned
-- Of sandboxes, and the sessions that made them, those that somebody has.
SELECT x.id FROM unnest($1::text[], $2::bigint[]) AS x(id, session)
WHERE EXISTS (SELECT FROM stepward.sandbox b WHERE b.id = x.id AND b.destroyed_at IS NULL)
   OR EXISTS (SELECT FROM stepward.worker w WHERE w.session = x.session AND w.state IN ('live', 'draining'));

-- name: SandboxTenant
-- Whose it is. No row: nobody's yet, or it is not of this schema.
SELECT r.tenant FROM stepward.sandbox b JOIN stepward.run r ON r.id = b.run_id WHERE b.id = $1;
