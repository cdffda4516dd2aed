-- name: RunInsert
-- One row per item of a batch. An item whose idempotency key is taken is not inserted. $10 to $12 are
-- attributes: the place of the item, name, value; $13 ticks; $14 timeouts; $15 keys of limits; $16 bindings.
WITH x AS MATERIALIZED (
    SELECT stepward.next_id() AS id, t.n, t.tenant, t.workflow, t.version, t.requirement_id, t.traceparent, t.input, t.key, t.input_hash, t.priority, t.tick, t.timeout, t.limit_key, t.binding
    FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::bytea[], $7::text[], $8::bytea[], $9::smallint[], $13::timestamptz[], $14::float8[], $15::text[], $16::bytea[])
        WITH ORDINALITY AS t(tenant, workflow, version, requirement_id, traceparent, input, key, input_hash, priority, tick, timeout, limit_key, binding, n)
), keyed AS (
    INSERT INTO stepward.idempotency (tenant, key, run_id, input_hash)
    SELECT tenant, key, id, input_hash FROM x WHERE key IS NOT NULL ORDER BY tenant, key
    ON CONFLICT DO NOTHING RETURNING run_id
), added AS (
    INSERT INTO stepward.run (id, tenant, workflow, traceparent, tick, input, version, requirement_id, priority, limit_key)
    SELECT id, tenant, workflow, traceparent, tick, input, version, requirement_id, priority, limit_key FROM x
    WHERE key IS NULL OR id IN (SELECT run_id FROM keyed)
    RETURNING id, requirement_id, tenant, priority, limit_key
), queued AS (
    INSERT INTO stepward.ready (requirement_id, gate, tenant, rank, run_id)
    SELECT requirement_id, stepward.gate(limit_key, 0), tenant, stepward.rank(id, priority), id FROM added
), tagged AS (
    INSERT INTO stepward.attribute (run_id, name, value)
    SELECT added.id, a.name, a.value FROM unnest($10::bigint[], $11::text[], $12::bytea[]) AS a(n, name, value)
    JOIN x ON x.n = a.n JOIN added ON added.id = x.id
), limited AS (
    INSERT INTO stepward.deadline (run_id, at)
    SELECT x.id, clock_timestamp() + make_interval(secs => x.timeout) FROM x JOIN added ON added.id = x.id WHERE x.timeout IS NOT NULL
), bound AS (
    INSERT INTO stepward.binding (run_id, body)
    SELECT x.id, x.binding FROM x JOIN added ON added.id = x.id WHERE x.binding IS NOT NULL
)
SELECT x.id, EXISTS (SELECT FROM added WHERE added.id = x.id) FROM x ORDER BY x.n;

-- name: IdempotencyGet
SELECT i.run_id, i.input_hash FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS x(tenant, key, n)
JOIN stepward.idempotency i ON i.tenant = x.tenant AND i.key = x.key ORDER BY x.n;

-- name: RunResult
SELECT id, state::text, output, error, epoch FROM stepward.run WHERE id = ANY($1::bigint[]);

-- name: RunHistory
SELECT tenant, workflow, version, state::text, input, output, error, coalesce(origin_id, 0), tick FROM stepward.run WHERE id = $1;

-- name: RunForkable
SELECT r.tenant, r.workflow, r.version, r.requirement_id, r.input, coalesce(r.priority, 0), r.tick,
       coalesce(l.key, ''), coalesce(l.concurrency, 0), coalesce(l.rate, 0), coalesce(l.per_s, 0)
FROM stepward.run r LEFT JOIN stepward.run_limit l ON l.key = r.limit_key WHERE r.id = $1;

-- name: RunFork
SELECT stepward.fork($1, $2, $3, $4, $5);

-- name: RunForked
INSERT INTO stepward.event (run_id, kind, actor, step, detail)
VALUES ($1, 'run.forked', $3, $4, $5), ($2, 'run.forked', $3, $4, $5);

-- name: RunList
-- $2 is the page's lower end, exclusive; newest first.
SELECT r.id, coalesce(r.parent_id, 0), r.tenant, r.workflow, r.version, r.state::text, r.epoch, r.cancel, r.pause, r.finished_at, r.error, coalesce(r.priority, 0), coalesce(r.limit_key, ''),
       t.session, w.name, q.since, tm.run_id, tm.wake_at, p.reason, p.detail, p.since, p.retry_at, d.at,
       (SELECT array_agg(a.name ORDER BY a.name) FROM stepward.attribute a WHERE a.run_id = r.id),
       (SELECT array_agg(a.value ORDER BY a.name) FROM stepward.attribute a WHERE a.run_id = r.id)
FROM stepward.run r
LEFT JOIN stepward.turn t ON t.run_id = r.id
LEFT JOIN stepward.worker w ON w.session = t.session
LEFT JOIN stepward.ready q ON (q.requirement_id, q.gate, q.tenant, q.rank, q.run_id)
        = (r.requirement_id, stepward.gate(r.limit_key, r.epoch), r.tenant, stepward.rank(r.id, r.priority), r.id)
LEFT JOIN stepward.timer tm ON tm.run_id = r.id
LEFT JOIN stepward.parked p ON p.run_id = r.id
LEFT JOIN stepward.deadline d ON d.run_id = r.id AND r.state = 'live' AND NOT r.cancel
WHERE ($1::bigint IS NULL OR r.id = $1)
  AND ($2::bigint IS NULL OR r.id < $2)
  AND ($3::text IS NULL OR r.tenant = $3)
  AND ($4::text IS NULL OR r.workflow = $4)
  AND ($5::text IS NULL OR r.version = $5)
  AND ($7::text IS NULL OR p.reason = $7)
  AND ($6::text IS NULL OR $6 = CASE
        WHEN r.state <> 'live' THEN r.state::text
        WHEN p.run_id IS NOT NULL THEN 'parked'
        WHEN tm.run_id IS NOT NULL THEN 'waiting'
        WHEN t.run_id IS NOT NULL THEN 'running'
        ELSE 'ready' END)
  AND ($9::bigint[] IS NULL OR r.id = ANY($9))
ORDER BY r.id DESC
LIMIT $8;

-- name: RunLock
SELECT state::text FROM stepward.run WHERE id = $1 FOR NO KEY UPDATE;

-- name: RunExpire
-- Looks at so many runs after an id, and deletes so many at most: see the function.
SELECT deleted, last_id FROM stepward.expire_runs($1, $2, $3, $4, $5, $6, $7);
