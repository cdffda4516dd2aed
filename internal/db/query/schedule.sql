-- name: ScheduleNow
SELECT clock_timestamp();

-- name: SchedulePut
-- $6, $7 the next tick, and when it is due; null leaves both as they are. The same schedule again is
-- no change.
INSERT INTO stepward.schedule (name, tenant, workflow, input, spec, tick_at, due_at, runs) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (name) DO UPDATE SET tenant = excluded.tenant, workflow = excluded.workflow, input = excluded.input, spec = excluded.spec, runs = excluded.runs,
    tick_at = coalesce(excluded.tick_at, schedule.tick_at),
    due_at = CASE WHEN NOT schedule.paused THEN coalesce(excluded.due_at, schedule.due_at) END,
    problem = NULL
WHERE (schedule.tenant, schedule.workflow, schedule.input, schedule.spec, schedule.runs)
    IS DISTINCT FROM (excluded.tenant, excluded.workflow, excluded.input, excluded.spec, excluded.runs);

-- name: ScheduleList
-- All, or one.
SELECT name, tenant, workflow, input, spec, paused, CASE WHEN NOT paused THEN tick_at END, buffered_at, last_tick, last_run,
       skipped, missed, coalesce(problem, ''), runs
FROM stepward.schedule WHERE $1::text IS NULL OR name = $1 ORDER BY name;

-- name: SchedulePause
-- After ScheduleLock, in its transaction. A tick that waits for the end of a run is dropped.
UPDATE stepward.schedule SET paused = true, due_at = NULL, buffered_at = NULL, problem = NULL,
    skipped = skipped + CASE WHEN buffered_at IS NULL THEN 0 ELSE 1 END
WHERE name = $1 AND NOT paused;

-- name: ScheduleResume
-- After ScheduleLock, in its transaction. $2, $3 the next tick, and when it is due.
UPDATE stepward.schedule SET paused = false, tick_at = $2, due_at = $3 WHERE name = $1 AND paused;

-- name: ScheduleDelete
DELETE FROM stepward.schedule WHERE name = $1;

-- name: ScheduleDue
-- Some schedules that have something to do, beside those of $2. Whoever freezes while it holds them
-- loses its transaction after a while.
SELECT name, tenant, workflow, input, spec, paused, tick_at, due_at, buffered_at, live, skipped, missed, clock_timestamp(),
       set_config('idle_in_transaction_session_timeout', '5s', true), runs
FROM stepward.schedule s
WHERE name <> ALL ($2::text[]) AND (due_at <= clock_timestamp() OR buffered_at IS NOT NULL
    AND NOT EXISTS (SELECT FROM stepward.run r WHERE r.id = ANY(s.live) AND r.state = 'live'))
ORDER BY due_at LIMIT $1 FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: ScheduleLock
SELECT name, tenant, workflow, input, spec, paused, tick_at, due_at, buffered_at, live, skipped, missed, clock_timestamp(),
       set_config('idle_in_transaction_session_timeout', '5s', true), runs
FROM stepward.schedule WHERE name = $1 FOR NO KEY UPDATE;

-- name: ScheduleLive
-- After ScheduleDue or ScheduleLock, with a newer snapshot: which of the runs have not ended.
SELECT id FROM stepward.run WHERE id = ANY($1::bigint[]) AND state = 'live';

-- name: ScheduleAdvance
-- After one of the two, in its transaction. $1 is a JSON array of where the schedules stand now, each
-- with the runs that were added for its ticks, and with those to cancel, which any worker does.
WITH x AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS x(name text, tick_at timestamptz, due_at timestamptz, buffered_at timestamptz,
        live bigint[], skipped bigint, missed bigint, last_tick timestamptz, last_run bigint,
        runs bigint[], ticks timestamptz[], cancel bigint[])
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor, detail)
    SELECT r.run_id, 'run.scheduled', $2::text,
           convert_to(json_build_object('schedule', x.name, 'tick', to_char(r.tick AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))::text, 'UTF8')
    FROM x CROSS JOIN LATERAL unnest(x.runs, x.ticks) AS r(run_id, tick)
), notices AS (
    INSERT INTO stepward.notice (run_id, cancel) SELECT unnest(x.cancel), true FROM x
)
UPDATE stepward.schedule s SET tick_at = x.tick_at, due_at = CASE WHEN NOT s.paused THEN x.due_at END, buffered_at = x.buffered_at,
    live = coalesce(x.live, '{}'), skipped = x.skipped, missed = x.missed,
    last_tick = coalesce(x.last_tick, s.last_tick), last_run = coalesce(x.last_run, s.last_run), problem = NULL
FROM x WHERE s.name = x.name;

-- name: ScheduleProblem
UPDATE stepward.schedule SET problem = $2 WHERE name = $1 AND problem IS DISTINCT FROM $2;
