-- name: LimitPut
-- The newest numbers of limits. One that has them is not changed, so that a transaction of the
-- application does not hold what claims need; it is only kept from being deleted.
WITH kept AS MATERIALIZED (
    SELECT l.key, l.concurrency, l.rate, l.per_s FROM stepward.run_limit l WHERE l.key = ANY($1::text[]) ORDER BY l.key FOR KEY SHARE
)
INSERT INTO stepward.run_limit (key, concurrency, rate, per_s, tokens)
SELECT x.key, x.concurrency, x.rate, x.per_s, x.rate
FROM unnest($1::text[], $2::int[], $3::int[], $4::float8[]) AS x(key, concurrency, rate, per_s)
WHERE NOT EXISTS (SELECT FROM kept l
                  WHERE l.key = x.key AND (l.concurrency, l.rate, l.per_s) = (x.concurrency, x.rate, x.per_s))
ORDER BY x.key
ON CONFLICT (key) DO UPDATE SET concurrency = excluded.concurrency, rate = excluded.rate, per_s = excluded.per_s,
    tokens = CASE WHEN run_limit.rate = 0 THEN excluded.rate ELSE least(run_limit.tokens, excluded.rate) END;

-- name: LimitIdle
-- Up to 100 limits that no run has, and whose tokens are all there again. Those that an enqueue is about to
-- use are passed over; for the others it waits.
SELECT l.key FROM stepward.run_limit l
WHERE abs(extract(epoch FROM clock_timestamp() - l.filled_at)) > l.per_s
  AND NOT EXISTS (SELECT FROM stepward.run r WHERE r.limit_key = l.key)
ORDER BY l.key LIMIT 100 FOR UPDATE OF l SKIP LOCKED;

-- name: LimitDelete
-- After LimitIdle, in its transaction, but with a newer snapshot: it sees what was enqueued before the lock.
DELETE FROM stepward.run_limit l WHERE l.key = ANY($1::text[]) AND NOT EXISTS (SELECT FROM stepward.run r WHERE r.limit_key = l.key);

-- name: LimitOpen
-- The limits of ready runs of $1 that let one through now, $2 at most and any of them, and the seconds
-- until the next one does for lack of tokens. What a slot will open is not known. A filling in the
-- future is of a clock that was set back since: tokens count from it as from the past, or there would be
-- none until the clock is there again. $3 are the requirements that a claim of $1 pins, $4 to $6 what the
-- worker has handed on: see Claim. Gates behind which nothing else waits count as empty, or those of many
-- such limits would be looked at in turn before the one that the worker can do something for.
WITH RECURSIVE gate AS (
    SELECT id, pin_id, '' COLLATE "C" AS gate FROM unnest($1::int[], $3::int[]) AS w(id, pin_id)
    UNION ALL
    SELECT gate.id, gate.pin_id, next.gate FROM gate CROSS JOIN LATERAL (
        SELECT q.gate FROM stepward.ready q WHERE q.requirement_id = gate.id AND q.gate > gate.gate ORDER BY q.gate LIMIT 1
    ) next
), waiting AS (
    SELECT DISTINCT rtrim(gate, E'\x01') COLLATE "C" AS key FROM gate WHERE gate <> ''
), free AS (
    SELECT l.key, l.rate, (1 - l.tokens) * l.per_s / nullif(l.rate, 0) - abs(extract(epoch FROM clock_timestamp() - l.filled_at)) AS wait
    FROM waiting JOIN stepward.run_limit l ON l.key = waiting.key
    WHERE l.concurrency = 0 OR l.concurrency > (SELECT count(*) FROM stepward.turn t WHERE t.limit_key = l.key)
), room AS (
    SELECT free.key, min(CASE WHEN free.rate = 0 OR gate.gate <> free.key THEN 0 ELSE free.wait END)::float8 AS wait
    FROM free JOIN gate ON rtrim(gate.gate, E'\x01') = free.key
    WHERE coalesce(cardinality($4::int[]), 0) = 0 OR EXISTS (
        WITH RECURSIVE lane AS (
            (SELECT q.tenant FROM stepward.ready q WHERE q.requirement_id = gate.id AND q.gate = gate.gate ORDER BY q.tenant LIMIT 1)
            UNION ALL
            SELECT next.tenant FROM lane CROSS JOIN LATERAL (
                SELECT q.tenant FROM stepward.ready q WHERE q.requirement_id = gate.id AND q.gate = gate.gate AND q.tenant > lane.tenant ORDER BY q.tenant LIMIT 1
            ) next
        )
        SELECT FROM lane CROSS JOIN LATERAL (
            SELECT ARRAY(SELECT h.binding FROM unnest($4::int[], $5::text[], $6::bigint[]) AS h(id, tenant, binding)
                         WHERE h.id = gate.pin_id AND h.tenant COLLATE "C" = lane.tenant) AS handed
        ) left_to CROSS JOIN LATERAL (
            SELECT q.run_id FROM stepward.ready q WHERE q.requirement_id = gate.id AND q.gate = gate.gate AND q.tenant = lane.tenant ORDER BY q.rank LIMIT 1000
        ) first
        WHERE left_to.handed = '{}' OR coalesce((SELECT hash_record_extended(ROW(b.body), 0) FROM stepward.binding b WHERE b.run_id = first.run_id), 0) <> ALL(left_to.handed))
    GROUP BY free.key
)
(SELECT key, 0::float8 FROM room WHERE wait <= 0 ORDER BY random() LIMIT $2)
UNION ALL
SELECT '', min(wait) FROM room WHERE wait > 0 HAVING count(*) > 0;

-- name: ClaimLimited
-- Claim, for runs with the limits $6. A limit that another claim looks at, or has changed since this one
-- began, is left to that: so how many turns it has is exact. The places of a limit are dealt out to the
-- tenants that wait, beginning after the one that was served last; runs that have begun go first, and need
-- no token. A last row without a run says that there are runs without a limit, which Claim takes.
WITH RECURSIVE want AS (
    SELECT w.id, w.pin_id, w.version FROM unnest($2::int[], $3::int[], $4::text[]) AS w(id, pin_id, version)
    WHERE EXISTS (SELECT FROM stepward.worker WHERE session = $1 AND state = 'live' AND lease_until > clock_timestamp())
), open AS MATERIALIZED (
    SELECT l.key, l.concurrency, l.rate, l.served, clock_timestamp() AS at,
           CASE WHEN l.rate > 0 THEN least(l.rate, l.tokens + l.rate * abs(extract(epoch FROM clock_timestamp() - l.filled_at)) / l.per_s) ELSE 0 END AS tokens
    FROM stepward.run_limit l JOIN stepward.run_limit was ON was.key = l.key AND was.filled_at = l.filled_at
    WHERE l.key = ANY($6::text[]) ORDER BY l.key FOR NO KEY UPDATE OF l SKIP LOCKED
), room AS MATERIALIZED (
    SELECT open.*, places, ARRAY(SELECT generate_series(1, least(concurrency, used + places))::int EXCEPT SELECT unnest(slots)) AS slots
    FROM open CROSS JOIN LATERAL (SELECT count(*) AS used, array_agg(t.slot) AS slots FROM stepward.turn t WHERE t.limit_key = open.key) u
    CROSS JOIN LATERAL (SELECT CASE WHEN concurrency > 0 THEN least($5, concurrency - used) ELSE $5 END AS places) p
    WHERE places > 0
), lane AS (
    SELECT room.key, room.served, room.places, CASE WHEN room.rate > 0 THEN floor(room.tokens) ELSE room.places END AS tokens,
           gate.fresh, gate.gate, want.id, want.pin_id, room.served AS tenant, false AS round, 0 AS n, NULL::bigint[] AS handed
    FROM room CROSS JOIN want
    CROSS JOIN LATERAL (VALUES (false, stepward.gate(room.key, 1) COLLATE "C"), (true, room.key)) AS gate(fresh, gate)
    UNION ALL
    SELECT lane.key, lane.served, lane.places, lane.tokens, lane.fresh, lane.gate, lane.id, lane.pin_id, next.tenant, next.round,
           lane.n + CASE left_to.handed WHEN '{}' THEN 1 ELSE 0 END, left_to.handed
    FROM lane CROSS JOIN LATERAL (
        SELECT tenant, lane.round FROM (
            SELECT q.tenant FROM stepward.ready q WHERE q.requirement_id = lane.id AND q.gate = lane.gate AND q.tenant > lane.tenant ORDER BY q.tenant LIMIT 1
        ) later WHERE tenant <= lane.served OR NOT lane.round
        UNION ALL
        (SELECT q.tenant, true FROM stepward.ready q
         WHERE q.requirement_id = lane.id AND q.gate = lane.gate AND q.tenant <= lane.served AND NOT lane.round ORDER BY q.tenant LIMIT 1)
        ORDER BY round LIMIT 1
    ) next CROSS JOIN LATERAL (
        SELECT ARRAY(SELECT h.binding FROM unnest($7::int[], $8::text[], $9::bigint[]) AS h(id, tenant, binding)
                     WHERE h.id = lane.pin_id AND h.tenant COLLATE "C" = next.tenant) AS handed
    ) left_to
    WHERE lane.n < CASE WHEN lane.fresh THEN least(lane.places, lane.tokens) ELSE lane.places END
), seen AS (
    SELECT lane.*, row_number() OVER (PARTITION BY lane.key, lane.fresh, lane.tenant ORDER BY head.rank) AS k
    FROM (SELECT 5000 / greatest(5, count(*) FILTER (WHERE handed <> '{}')) AS look FROM lane) most CROSS JOIN lane CROSS JOIN LATERAL (
        SELECT rank FROM (
            SELECT * FROM (
                SELECT q.rank, q.run_id FROM stepward.ready q WHERE q.requirement_id = lane.id AND q.gate = lane.gate AND q.tenant = lane.tenant ORDER BY q.rank LIMIT 1000
            ) front LIMIT CASE lane.handed WHEN '{}' THEN 1000 ELSE most.look END
        ) first WHERE lane.handed = '{}' OR coalesce((SELECT hash_record_extended(ROW(b.body), 0) FROM stepward.binding b WHERE b.run_id = first.run_id), 0) <> ALL(lane.handed) LIMIT lane.places
    ) head
    WHERE lane.handed IS NOT NULL
), spread AS (
    SELECT key, fresh, gate, id, tenant, round, handed, count(*) AS n
    FROM (
        SELECT * FROM (
            SELECT seen.*, row_number() OVER (PARTITION BY key ORDER BY fresh, k, round, tenant) AS place,
                   row_number() OVER (PARTITION BY key, fresh ORDER BY k, round, tenant) AS token
            FROM seen
        ) ranked WHERE place <= places AND (NOT fresh OR token <= tokens) ORDER BY place LIMIT $5
    ) dealt
    GROUP BY key, fresh, gate, id, tenant, round, handed
), picked AS MATERIALIZED (
    SELECT p.run_id, p.place, p.since, spread.key, spread.fresh, spread.tenant, spread.round, want.pin_id, want.version,
           row_number() OVER (PARTITION BY spread.key) AS n
    FROM spread JOIN want ON want.id = spread.id CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT q.run_id, q.ctid AS place, q.since FROM stepward.ready q
            CROSS JOIN LATERAL (SELECT FROM stepward.run WHERE run.id = q.run_id FOR NO KEY UPDATE SKIP LOCKED) r
            WHERE q.requirement_id = spread.id AND q.gate = spread.gate AND q.tenant = spread.tenant
              AND (spread.handed = '{}' OR coalesce((SELECT hash_record_extended(ROW(b.body), 0) FROM stepward.binding b WHERE b.run_id = q.run_id), 0) <> ALL(spread.handed))
            ORDER BY q.rank LIMIT 1000
        ) first LIMIT spread.n
    ) p
), taken AS (
    DELETE FROM stepward.ready WHERE ctid = ANY(ARRAY(SELECT place FROM picked)) RETURNING run_id
), held AS (
    UPDATE stepward.run r
    SET epoch = r.epoch + 1, session = $1, requirement_id = picked.pin_id, version = picked.version
    FROM picked WHERE r.id = picked.run_id AND r.id = ANY(ARRAY(SELECT run_id FROM taken))
    RETURNING r.id, r.epoch, r.tenant, r.workflow, r.version, r.traceparent, r.tick, r.input, r.cancel, coalesce(r.priority, 0) AS priority,
        coalesce(r.origin_id, r.id) AS seed, picked.since, picked.key, picked.fresh, picked.round, picked.n
), turned AS (
    INSERT INTO stepward.turn (run_id, session, epoch, limit_key, slot)
    SELECT held.id, $1, held.epoch, CASE WHEN room.concurrency > 0 THEN room.key END, CASE WHEN room.concurrency > 0 THEN room.slots[held.n] END
    FROM held JOIN room ON room.key = held.key
), noted AS (
    INSERT INTO stepward.claim (run_id, epoch, session) SELECT id, epoch, $1 FROM held
), drawn AS (
    UPDATE stepward.run_limit l SET served = last.tenant, filled_at = room.at, tokens = room.tokens - last.fresh
    FROM room JOIN (SELECT key, count(*) FILTER (WHERE fresh) AS fresh, (max(ARRAY[round::text, tenant]))[2] AS tenant FROM held GROUP BY key) last
        ON last.key = room.key
    WHERE l.key = room.key AND l.key = ANY($6::text[])
)
SELECT id, epoch, tenant, workflow, version, traceparent, tick, input, cancel, priority,
       extract(epoch FROM clock_timestamp() - since)::float8, seed, key
FROM held
UNION ALL
SELECT 0, 0, '', '', '', NULL, NULL, '', false, 0, 0, 0, ''
WHERE EXISTS (SELECT FROM want CROSS JOIN LATERAL (SELECT FROM stepward.ready q WHERE q.requirement_id = want.id AND q.gate = '' LIMIT 1) x);

-- name: LimitUse
-- How a limit stands: its numbers, the turns that have a slot, and the seconds until the next token.
SELECT l.concurrency, (SELECT count(*)::int FROM stepward.turn t WHERE t.limit_key = l.key), l.rate, l.per_s,
       CASE WHEN l.rate = 0 THEN 0 ELSE greatest(0, (1 - l.tokens) * l.per_s / l.rate - abs(extract(epoch FROM clock_timestamp() - l.filled_at))) END::float8
FROM stepward.run_limit l WHERE l.key = $1;
