-- name: Database
-- Tells databases that have such a schema from each other: by when it was made there, and within a server a copy by its oid.
SELECT concat((SELECT (extract(epoch FROM min(applied_at)) * 1000000)::bigint FROM stepward.migration), '-', oid)
  FROM pg_database WHERE datname = current_database();

-- name: WorkerInsert
INSERT INTO stepward.worker (session, name, lease_until, lease_s, requirements, unmet, backends, max_runs)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3::float8), $3::float8, $4, $5, $6, $7);

-- name: WorkerHeartbeat
UPDATE stepward.worker SET lease_until = clock_timestamp() + make_interval(secs => $2::float8)
WHERE session = $1 AND state IN ('live', 'draining') RETURNING state;

-- name: WorkerState
UPDATE stepward.worker SET state = $2 WHERE session = $1 AND state IN ('live', 'draining');

-- name: WorkerOffers
-- What a worker claims from now on, and what it lists and does not.
UPDATE stepward.worker SET requirements = $2, unmet = $3 WHERE session = $1 AND state IN ('live', 'draining');

-- name: WorkerLacks
-- Writes down for a time that worker $1 lacks $3, and says whether another one may go on with run $2 that lacks neither that nor a broker,
-- as far as known; and which runs are like that one: see Claim.
WITH mine AS (
    UPDATE stepward.worker SET lacks = jsonb_build_object($3::text, extract(epoch FROM clock_timestamp())::float8 + $4::float8)
        || (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM (
               SELECT key, value FROM jsonb_each(lacks)
               WHERE key <> $3::text AND value::float8 > extract(epoch FROM clock_timestamp())
               ORDER BY value DESC LIMIT 100) x)
    WHERE session = $1 AND state IN ('live', 'draining')
)
SELECT r.requirement_id, coalesce((SELECT hash_record_extended(ROW(b.body), 0) FROM stepward.binding b WHERE b.run_id = r.id), 0), EXISTS (
    SELECT FROM stepward.worker w
    WHERE r.requirement_id = ANY(w.requirements) AND w.session <> $1 AND w.state = 'live' AND w.lease_until > clock_timestamp()
      AND NOT EXISTS (SELECT FROM jsonb_each(w.lacks) WHERE key IN ($3::text, 'broker') AND value::float8 > extract(epoch FROM clock_timestamp())))
FROM stepward.run r WHERE r.id = $2;

-- name: WorkerPasses
-- Worker $1 leaves runs like those of $2 to others for $3 seconds, as it lacks $4: see WhyWorkers.
UPDATE stepward.worker SET passes = jsonb_build_object($2::text, jsonb_build_object('until', extract(epoch FROM clock_timestamp())::float8 + $3::float8, 'lack', $4::text))
    || (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(passes)
        WHERE key <> $2::text AND (value ->> 'until')::float8 > extract(epoch FROM clock_timestamp()))
WHERE session = $1 AND state IN ('live', 'draining');

-- name: WorkerMended
-- Worker $1 lacks none of $2 any more, and leaves nothing like $3 to others; null: nothing at all.
UPDATE stepward.worker SET lacks = lacks - $2::text[], passes = CASE WHEN $3::text[] IS NULL THEN '{}' ELSE passes - $3::text[] END
WHERE session = $1 AND state IN ('live', 'draining');

-- name: RunKind
-- Which runs are like this one: see Claim.
SELECT r.requirement_id, coalesce((SELECT hash_record_extended(ROW(b.body), 0) FROM stepward.binding b WHERE b.run_id = r.id), 0)
FROM stepward.run r WHERE r.id = $1;

-- name: WorkerReap
-- A lease that lasts longer than any does was given before the clock was set back: it is given anew
-- from now, or a worker that died before that would be missed only when the clock is there again.
WITH ahead AS (
    UPDATE stepward.worker SET lease_until = clock_timestamp() + make_interval(secs => lease_s)
    WHERE session IN (
        SELECT session FROM stepward.worker
        WHERE state IN ('live', 'draining') AND lease_until > clock_timestamp() + make_interval(secs => lease_s + 1)
        ORDER BY session LIMIT 10 FOR UPDATE SKIP LOCKED)
)
UPDATE stepward.worker SET state = 'dead' WHERE session IN (
    SELECT session FROM stepward.worker
    WHERE state IN ('live', 'draining') AND lease_until < clock_timestamp() - make_interval(secs => $1::float8)
    ORDER BY session LIMIT 10 FOR UPDATE SKIP LOCKED
) RETURNING session, name;

-- name: WorkerForget
-- Rows of workers that ended long ago and hold nothing.
DELETE FROM stepward.worker w WHERE w.state IN ('dead', 'gone') AND w.lease_until < clock_timestamp() - interval '30 days'
  AND NOT EXISTS (SELECT FROM stepward.turn t WHERE t.session = w.session);

-- name: Backlog
SELECT count(*)::bigint, coalesce(extract(epoch FROM clock_timestamp() - min(since)), 0)::float8
FROM (SELECT since FROM stepward.ready WHERE requirement_id = ANY($1::int[]) LIMIT 10000) q;

-- name: TimerWake
-- Wakes runs that are due, also parked ones, up to 500 of each, and says how many of one kind at most, when the next is, and when
-- a schedule has something to do. The clock is asked once: compared with one that may change from row to row, no index is of use, and each
-- look would read all that wait.
WITH due AS MATERIALIZED (
    SELECT t.run_id, r.requirement_id FROM stepward.timer t JOIN stepward.run r ON r.id = t.run_id
    WHERE t.wake_at <= (SELECT clock_timestamp())
    ORDER BY t.wake_at LIMIT 500 FOR NO KEY UPDATE OF t, r SKIP LOCKED
), again AS MATERIALIZED (
    SELECT p.run_id, r.requirement_id FROM stepward.parked p JOIN stepward.run r ON r.id = p.run_id
    WHERE p.retry_at <= (SELECT clock_timestamp())
    ORDER BY p.retry_at LIMIT 500 FOR NO KEY UPDATE OF p, r SKIP LOCKED
), gone AS (
    DELETE FROM stepward.timer USING due WHERE timer.run_id = due.run_id
), unparked AS (
    DELETE FROM stepward.parked USING again WHERE parked.run_id = again.run_id
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor) SELECT run_id, 'run.resume', $1::text FROM again
), back AS (
    INSERT INTO stepward.ready (requirement_id, run_id) SELECT requirement_id, run_id FROM due UNION ALL SELECT requirement_id, run_id FROM again
)
SELECT greatest((SELECT count(*)::int FROM due), (SELECT count(*)::int FROM again)),
       extract(epoch FROM least((SELECT min(wake_at) FROM stepward.timer WHERE run_id NOT IN (SELECT run_id FROM due)),
                                (SELECT min(at) FROM stepward.deadline)) - clock_timestamp())::float8,
       least((SELECT extract(epoch FROM min(due_at) - clock_timestamp())::float8 FROM stepward.schedule),
             (SELECT 0 WHERE EXISTS (SELECT FROM stepward.schedule s WHERE s.buffered_at IS NOT NULL
              AND NOT EXISTS (SELECT FROM stepward.run r WHERE r.id = ANY(s.live) AND r.state = 'live')))),
       coalesce((SELECT min(at) FROM stepward.deadline) <= clock_timestamp(), false);

-- name: ParkUnservable
-- Runs of $1, which no live worker can serve, are parked with the reason, and tried again as those of TurnLeave are: the worker that
-- can, and has just started, may not have seen them when it looked for what is parked.
WITH stuck AS MATERIALIZED (
    SELECT q.run_id, q.requirement_id, q.gate, q.tenant, q.rank FROM stepward.ready q JOIN stepward.run r ON r.id = q.run_id
    WHERE q.requirement_id = ANY($1::int[])
      AND NOT EXISTS (SELECT FROM stepward.worker w WHERE w.state = 'live' AND w.lease_until > clock_timestamp()
                      AND q.requirement_id = ANY(w.requirements))
    ORDER BY q.run_id LIMIT 500 FOR NO KEY UPDATE OF q, r SKIP LOCKED
), gone AS (
    DELETE FROM stepward.ready USING stuck
    WHERE (ready.requirement_id, ready.gate, ready.tenant, ready.rank, ready.run_id)
        = (stuck.requirement_id, stuck.gate, stuck.tenant, stuck.rank, stuck.run_id)
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor, detail) SELECT run_id, 'run.parked', $3::text, $2::bytea FROM stuck
), parked AS (
    INSERT INTO stepward.parked (run_id, requirement_id, reason, detail, retry_at)
    SELECT run_id, requirement_id, 'no_backend', $2::bytea, clock_timestamp() + make_interval(secs => 10 * 2 ^ least(6,
        (SELECT count(*) FROM stepward.event e WHERE e.run_id = stuck.run_id AND e.kind = 'run.parked' AND e.at > clock_timestamp() - interval '1 hour')))
    FROM stuck
)
SELECT run_id FROM stuck;

-- name: Unpark
-- What a deploy may have cured is tried again by the worker that starts, $3: each run once, as what parks again does
-- so later than it started.
WITH cured AS MATERIALIZED (
    SELECT p.run_id, r.requirement_id FROM stepward.parked p JOIN stepward.run r ON r.id = p.run_id
    WHERE p.requirement_id = ANY($1::int[]) AND p.reason <> 'crashed' AND NOT r.pause
      AND p.since < (SELECT started_at FROM stepward.worker WHERE session = $3)
    ORDER BY p.run_id LIMIT 500 FOR NO KEY UPDATE OF p, r SKIP LOCKED
), gone AS (
    DELETE FROM stepward.parked USING cured WHERE parked.run_id = cured.run_id
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor) SELECT run_id, 'run.resume', $2::text FROM cured
), back AS (
    INSERT INTO stepward.ready (requirement_id, run_id) SELECT requirement_id, run_id FROM cured
)
SELECT count(*)::int FROM cured;
