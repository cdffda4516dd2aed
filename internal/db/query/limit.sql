-- name: LimitPut
-- The newest numbers of limits. One that has them is not touched, so that a transaction of the
-- application does not hold what claims need.
INSERT INTO stepward.run_limit (key, concurrency, rate, per_s, tokens)
SELECT x.key, x.concurrency, x.rate, x.per_s, x.rate
FROM unnest($1::text[], $2::int[], $3::int[], $4::float8[]) AS x(key, concurrency, rate, per_s)
WHERE NOT EXISTS (SELECT FROM stepward.run_limit l
                  WHERE l.key = x.key AND (l.concurrency, l.rate, l.per_s) = (x.concurrency, x.rate, x.per_s))
ORDER BY x.key
ON CONFLICT (key) DO UPDATE SET concurrency = excluded.concurrency, rate = excluded.rate, per_s = excluded.per_s,
    tokens = CASE WHEN run_limit.rate = 0 THEN excluded.rate ELSE least(run_limit.tokens, excluded.rate) END;

-- name: LimitOpen
-- The limits of ready runs of $1 that let one through now, $2 at most and any of them, and the seconds
-- until the next one does for lack of tokens. What a slot will open is not known. A filling in the
-- future is of a clock that was set back since: tokens count from it as from the past, or there would be
-- none until the clock is there again.
WITH RECURSIVE gate AS (
    SELECT id, '' COLLATE "C" AS gate FROM unnest($1::int[]) AS w(id)
    UNION ALL
    SELECT gate.id, next.gate FROM gate CROSS JOIN LATERAL (
        SELECT q.gate FROM stepward.ready q WHERE q.requirement_id = gate.id AND q.gate > gate.gate ORDER BY q.gate LIMIT 1
    ) next
), waiting AS (
    SELECT rtrim(gate, E'\x01') COLLATE "C" AS key, bool_or(gate LIKE E'%\x01') AS begun FROM gate WHERE gate <> '' GROUP BY 1
), room AS (
    SELECT l.key, CASE WHEN l.rate = 0 OR waiting.begun THEN 0
            ELSE (1 - l.tokens) * l.per_s / l.rate - abs(extract(epoch FROM clock_timestamp() - l.filled_at)) END::float8 AS wait
    FROM waiting JOIN stepward.run_limit l ON l.key = waiting.key
    WHERE l.concurrency = 0 OR l.concurrency > (SELECT count(*) FROM stepward.turn t WHERE t.limit_key = l.key)
)
(SELECT key, 0::float8 FROM room WHERE wait <= 0 ORDER BY random() LIMIT $2)
UNION ALL
SELECT '', min(wait) FROM room WHERE wait > 0 HAVING count(*) > 0;

-- name: ClaimLimited
-- Claim, for runs with the limits $6. A limit that another claim looks at is left to that. The places of
-- a limit are dealt out to the tenants that wait, beginning after the one that was served last; runs that have
-- begun go first, and need no token. How many turns a limit has may be out of date by then: whoever finds
-- his slot taken goes without.
WITH RECURSIVE want AS (
    SELECT w.id, w.pin_id, w.version FROM unnest($2::int[], $3::int[], $4::text[]) AS w(id, pin_id, version)
    WHERE EXISTS (SELECT FROM stepward.worker WHERE session = $1 AND state = 'live' AND lease_until > clock_timestamp())
), open AS MATERIALIZED (
    SELECT l.key, l.concurrency, l.rate, l.served, clock_timestamp() AS at,
           CASE WHEN l.rate > 0 THEN least(l.rate, l.tokens + l.rate * abs(extract(epoch FROM clock_timestamp() - l.filled_at)) / l.per_s) ELSE 0 END AS tokens
    FROM stepward.run_limit l WHERE l.key = ANY($6::text[]) ORDER BY l.key FOR NO KEY UPDATE SKIP LOCKED
), room AS MATERIALIZED (
    SELECT open.*, CASE WHEN concurrency > 0 THEN least($5, concurrency - used) ELSE $5 END AS places, used
    FROM open CROSS JOIN LATERAL (SELECT count(*) AS used FROM stepward.turn t WHERE t.limit_key = open.key) u
), lane AS (
    SELECT room.key, room.served, gate.begun, gate.gate, want.id, room.served AS tenant, false AS round, 0 AS n, room.places
    FROM room CROSS JOIN want
    CROSS JOIN LATERAL (VALUES (true, stepward.gate(room.key, 1) COLLATE "C"), (false, room.key)) AS gate(begun, gate)
    WHERE room.places > 0 AND (gate.begun OR room.rate = 0 OR room.tokens >= 1)
    UNION ALL
    SELECT lane.key, lane.served, lane.begun, lane.gate, lane.id, next.tenant, next.round, lane.n + 1, lane.places
    FROM lane CROSS JOIN LATERAL (
        SELECT tenant, lane.round FROM (
            SELECT q.tenant FROM stepward.ready q WHERE q.requirement_id = lane.id AND q.gate = lane.gate AND q.tenant > lane.tenant ORDER BY q.tenant LIMIT 1
        ) later WHERE tenant <= lane.served OR NOT lane.round
        UNION ALL
        (SELECT q.tenant, true FROM stepward.ready q
         WHERE q.requirement_id = lane.id AND q.gate = lane.gate AND q.tenant <= lane.served AND NOT lane.round ORDER BY q.tenant LIMIT 1)
        ORDER BY round LIMIT 1
    ) next
    WHERE lane.n < lane.places
), seen AS (
    SELECT lane.key, lane.begun, lane.gate, lane.id, lane.tenant, lane.round, head.rank,
           row_number() OVER (PARTITION BY lane.key, lane.begun, lane.tenant ORDER BY head.rank) AS k
    FROM lane CROSS JOIN LATERAL (
        SELECT rank FROM (
            SELECT q.rank FROM stepward.ready q WHERE q.requirement_id = lane.id AND q.gate = lane.gate AND q.tenant = lane.tenant ORDER BY q.rank LIMIT 1000
        ) first LIMIT lane.places
    ) head
    WHERE lane.n > 0
), ranked AS (
    SELECT seen.*, row_number() OVER (PARTITION BY key, begun ORDER BY k, round, tenant) AS token,
           row_number() OVER (PARTITION BY key ORDER BY begun DESC, k, round, tenant) AS place
    FROM seen
), spread AS (
    SELECT s.key, s.begun, s.gate, s.id, s.tenant, s.round, count(*) AS n
    FROM (SELECT ranked.* FROM ranked JOIN room ON room.key = ranked.key
          WHERE place <= room.places AND (begun OR room.rate = 0 OR token <= floor(room.tokens)) ORDER BY place LIMIT $5) s
    GROUP BY s.key, s.begun, s.gate, s.id, s.tenant, s.round
), picked AS MATERIALIZED (
    SELECT p.run_id, p.epoch, p.place, p.since, spread.key, spread.begun, spread.tenant, spread.round, want.pin_id, want.version,
           row_number() OVER (PARTITION BY spread.key) AS n
    FROM spread JOIN want ON want.id = spread.id CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT q.run_id, r.epoch, q.ctid AS place, q.since FROM stepward.ready q
            CROSS JOIN LATERAL (SELECT run.epoch FROM stepward.run WHERE run.id = q.run_id FOR NO KEY UPDATE SKIP LOCKED) r
            WHERE q.requirement_id = spread.id AND q.gate = spread.gate AND q.tenant = spread.tenant
            ORDER BY q.rank LIMIT 1000 FOR NO KEY UPDATE OF q SKIP LOCKED
        ) first LIMIT spread.n
    ) p
), slot AS (
    SELECT room.key, s AS slot, row_number() OVER (PARTITION BY room.key ORDER BY s) AS n
    FROM room CROSS JOIN generate_series(1, least(room.concurrency, room.used + room.places)) AS s
    WHERE room.places > 0 AND NOT EXISTS (SELECT FROM stepward.turn t WHERE t.limit_key = room.key AND t.slot = s)
), turned AS (
    INSERT INTO stepward.turn (run_id, session, epoch, limit_key, slot)
    SELECT picked.run_id, $1, picked.epoch + 1, slot.key, slot.slot
    FROM picked JOIN room ON room.key = picked.key LEFT JOIN slot ON slot.key = picked.key AND slot.n = picked.n
    WHERE room.concurrency = 0 OR slot.slot IS NOT NULL
    ON CONFLICT DO NOTHING RETURNING run_id, epoch
), kept AS MATERIALIZED (
    SELECT picked.* FROM picked JOIN turned ON turned.run_id = picked.run_id
), taken AS (
    DELETE FROM stepward.ready WHERE ctid = ANY(ARRAY(SELECT place FROM kept))
), held AS (
    UPDATE stepward.run r
    SET epoch = r.epoch + 1, session = $1, requirement_id = kept.pin_id, version = kept.version
    FROM kept WHERE r.id = kept.run_id AND r.id = ANY(ARRAY(SELECT run_id FROM kept))
    RETURNING r.id, r.epoch, r.tenant, r.workflow, r.version, r.traceparent, r.tick, r.input, r.cancel, coalesce(r.priority, 0) AS priority,
        coalesce(r.origin_id, r.id) AS seed, kept.since
), noted AS (
    INSERT INTO stepward.claim (run_id, epoch, session) SELECT id, epoch, $1 FROM held
), drawn AS (
    UPDATE stepward.run_limit l SET served = last.tenant, filled_at = room.at, tokens = room.tokens - last.fresh
    FROM room JOIN (SELECT key, count(*) FILTER (WHERE NOT begun) AS fresh, (max(ARRAY[round::text, tenant]))[2] AS tenant FROM kept GROUP BY key) last
        ON last.key = room.key
    WHERE l.key = room.key AND l.key = ANY($6::text[])
)
SELECT id, epoch, tenant, workflow, version, traceparent, tick, input, cancel, priority,
       extract(epoch FROM clock_timestamp() - since)::float8, seed
FROM held ORDER BY id;

-- name: LimitUse
-- How a limit stands: its numbers, the turns that have a slot, and the seconds until the next token.
SELECT l.concurrency, (SELECT count(*)::int FROM stepward.turn t WHERE t.limit_key = l.key), l.rate, l.per_s,
       CASE WHEN l.rate = 0 THEN 0 ELSE greatest(0, (1 - l.tokens) * l.per_s / l.rate - abs(extract(epoch FROM clock_timestamp() - l.filled_at))) END::float8
FROM stepward.run_limit l WHERE l.key = $1;
