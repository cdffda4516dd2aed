-- name: RunCancel
-- After RunLock, in its transaction. A run that never began, or whose body cannot go on, ends here and
-- now; one that waits or is paused is woken, so that its body can clean up; one that is held is told
-- through the channel $3.
WITH t AS (
    DELETE FROM stepward.timer WHERE run_id = $1 RETURNING run_id
), q AS (
    DELETE FROM stepward.ready USING stepward.run r
    WHERE r.id = $1 AND r.epoch = 0 AND (ready.requirement_id, ready.gate, ready.tenant, ready.rank, ready.run_id)
        = (r.requirement_id, stepward.gate(r.limit_key, r.epoch), r.tenant, stepward.rank(r.id, r.priority), r.id) RETURNING run_id
), p AS (
    DELETE FROM stepward.parked WHERE run_id = $1 RETURNING run_id, reason
), free AS (
    SELECT run_id FROM q UNION SELECT p.run_id FROM p JOIN stepward.run r ON r.id = p.run_id WHERE p.reason <> 'paused' OR r.epoch = 0
), woken AS (
    INSERT INTO stepward.ready (requirement_id, run_id) SELECT r.requirement_id, r.id FROM stepward.run r
    WHERE r.id IN (SELECT run_id FROM t UNION SELECT run_id FROM p EXCEPT SELECT run_id FROM free) RETURNING run_id
), ended AS (
    UPDATE stepward.run SET cancel = true, pause = false,
        state = CASE WHEN EXISTS (SELECT FROM free) THEN 'canceled'::stepward.run_state ELSE state END,
        finished_at = CASE WHEN EXISTS (SELECT FROM free) THEN clock_timestamp() END,
        epoch = epoch + CASE WHEN EXISTS (SELECT FROM free) THEN 1 ELSE 0 END
    WHERE id = $1 AND state = 'live'
    RETURNING id, state, parent_id
), noted AS (
    INSERT INTO stepward.event (at, run_id, kind, actor) SELECT statement_timestamp(), id, 'run.cancel', $2 FROM ended -- before its end
), waits AS (
    DELETE FROM stepward.wait USING ended WHERE wait.run_id = ended.id AND ended.state = 'canceled' RETURNING wait.child_id
), notices AS (
    INSERT INTO stepward.notice (run_id, cancel)
    SELECT parent_id, false FROM ended WHERE state = 'canceled' AND parent_id IS NOT NULL
    UNION ALL SELECT child_id, true FROM waits WHERE child_id IS NOT NULL
), told AS (
    SELECT pg_notify($3::text, '!' || turn.run_id) FROM stepward.turn WHERE run_id = $1
)
SELECT EXISTS (SELECT FROM woken), (SELECT count(*) FROM told) FROM ended;

-- name: RunTerminate
-- After RunLock, in its transaction: the run ends here and now, wherever it is, with the error $3.
WITH ended AS (
    UPDATE stepward.run SET state = 'canceled', finished_at = clock_timestamp(), error = $3, pause = false, epoch = epoch + 1, session = NULL
    WHERE id = $1 AND state = 'live'
    RETURNING id, requirement_id, tenant, priority, limit_key, epoch - 1 AS epoch, parent_id
), t AS (
    DELETE FROM stepward.timer USING ended WHERE timer.run_id = ended.id
), q AS (
    DELETE FROM stepward.ready USING ended
    WHERE (ready.requirement_id, ready.gate, ready.tenant, ready.rank, ready.run_id)
        = (ended.requirement_id, stepward.gate(ended.limit_key, ended.epoch), ended.tenant, stepward.rank(ended.id, ended.priority), ended.id)
), p AS (
    DELETE FROM stepward.parked USING ended WHERE parked.run_id = ended.id
), held AS (
    DELETE FROM stepward.turn USING ended WHERE turn.run_id = ended.id RETURNING turn.run_id
), waits AS (
    DELETE FROM stepward.wait USING ended WHERE wait.run_id = ended.id RETURNING wait.child_id
), noted AS (
    INSERT INTO stepward.event (at, run_id, kind, actor) SELECT statement_timestamp(), id, 'run.terminate', $2 FROM ended
), notices AS (
    INSERT INTO stepward.notice (run_id, cancel, terminate)
    SELECT parent_id, false, false FROM ended WHERE parent_id IS NOT NULL
    UNION ALL SELECT child_id, false, true FROM waits WHERE child_id IS NOT NULL
)
SELECT count(pg_notify($4::text, '!' || run_id)) FROM held;

-- name: RunPause
-- After RunLock, in its transaction. A run that is ready or waits is parked; one that is held is told,
-- and its turn parks it. Returns whether the run was canceled, which it cleans up after.
WITH paused AS (
    UPDATE stepward.run SET pause = true WHERE id = $1 AND NOT pause AND NOT cancel RETURNING id, requirement_id, tenant, priority, limit_key, epoch
), q AS (
    DELETE FROM stepward.ready USING paused
    WHERE (ready.requirement_id, ready.gate, ready.tenant, ready.rank, ready.run_id)
        = (paused.requirement_id, stepward.gate(paused.limit_key, paused.epoch), paused.tenant, stepward.rank(paused.id, paused.priority), paused.id) RETURNING run_id
), t AS (
    DELETE FROM stepward.timer USING paused WHERE timer.run_id = paused.id RETURNING run_id
), parked AS (
    INSERT INTO stepward.parked (run_id, requirement_id, reason, detail)
    SELECT id, requirement_id, 'paused', $3 FROM paused WHERE EXISTS (SELECT FROM q) OR EXISTS (SELECT FROM t)
), held AS (
    UPDATE stepward.parked SET retry_at = NULL FROM paused WHERE parked.run_id = paused.id
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor) SELECT id, 'run.pause', $2 FROM paused
), told AS (
    SELECT pg_notify($4::text, '!' || turn.run_id) FROM stepward.turn JOIN paused ON paused.id = turn.run_id
)
SELECT r.cancel, (SELECT count(*) FROM told) FROM stepward.run r WHERE r.id = $1;

-- name: RunResume
-- After RunLock, in its transaction: a parked run becomes ready, and a pause that has not taken effect
-- is taken back. No row: there is neither.
WITH unpaused AS (
    UPDATE stepward.run SET pause = false WHERE id = $1 AND pause RETURNING id
), p AS (
    DELETE FROM stepward.parked WHERE run_id = $1 RETURNING run_id
), back AS (
    INSERT INTO stepward.ready (requirement_id, run_id)
    SELECT r.requirement_id, r.id FROM stepward.run r JOIN p ON p.run_id = r.id RETURNING run_id
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor)
    SELECT $1, 'run.resume', $2 WHERE EXISTS (SELECT FROM unpaused) OR EXISTS (SELECT FROM back) RETURNING run_id
), told AS (
    SELECT pg_notify($3::text, '!' || turn.run_id) FROM stepward.turn JOIN unpaused ON unpaused.id = turn.run_id
)
SELECT EXISTS (SELECT FROM back), (SELECT count(*) FROM told) FROM noted;

-- name: RetrySteps
-- After RunEnd, in its transaction. Takes the failures that ended a run off the record, and all that its
-- body called when it knew of them, and returns how many calls it had made before; null when no failure
-- is on record. $2 is the step that the run names in its error, or empty when it was ended from outside; null: it
-- is the last result, if that is a failure. What failed stays as attempts that do not count any more. Signals
-- that calls received which are taken off, the last of their names, are there to be received again.
WITH failure AS MATERIALIZED (
    SELECT seq, done, key, convert_from(output, 'UTF8')::int AS calls FROM stepward.step WHERE run_id = $1 AND (error <> '' OR seq = 0)
), fatal AS MATERIALIZED (
    SELECT min(calls) AS calls FROM failure
    WHERE seq = 0 OR key = $2 OR $2 IS NULL AND done = (SELECT max(done) FROM stepward.step WHERE run_id = $1)
), gone AS (
    DELETE FROM stepward.step s USING fatal
    WHERE s.run_id = $1 AND (s.seq > fatal.calls OR s.seq IN (SELECT f.seq FROM failure f WHERE f.calls >= fatal.calls))
    RETURNING s.seq, s.done, s.key, s.attempt, s.epoch, s.mode, s.started_at, s.elapsed, s.error, s.seq <= fatal.calls AND s.attempt > 0 AS repeats
), noted AS (
    INSERT INTO stepward.event (at, run_id, kind, actor, step, detail)
    SELECT started_at + make_interval(secs => elapsed), $1, CASE WHEN error = '' THEN 'step.completed' ELSE 'step.failed' END, 'worker', key,
           convert_to(json_build_object('seq', seq, 'attempt', attempt, 'epoch', epoch, 'mode', mode::int, 'elapsed_s', elapsed)::text, 'UTF8')
    FROM gone ORDER BY seq
), unreceived AS (
    UPDATE stepward.signal SET received = false FROM (
        SELECT id, name, row_number() OVER (PARTITION BY name ORDER BY id DESC) AS n FROM stepward.signal WHERE run_id = $1 AND received
    ) g JOIN (
        SELECT (regexp_match(key, '(?:^|/)signal:([^#:]+)(?:#[0-9]+)?$'))[1] AS name, count(*) AS n FROM gone WHERE attempt = 0 AND error = '' GROUP BY 1
    ) k ON k.name = g.name AND g.n <= k.n
    WHERE signal.run_id = $1 AND signal.name = g.name AND signal.id = g.id
), unshown AS (
    -- up to the last result before; of a fork, whose numbers leave some out, a lower one will be used anew
    UPDATE stepward.shown SET done = coalesce((SELECT max(s.done) FROM stepward.step s WHERE s.run_id = $1 AND s.done < first.done), 0), n = 2147483647
    FROM (SELECT min(done) AS done FROM gone) first
    WHERE shown.run_id = $1 AND shown.done >= first.done
), kept AS (
    INSERT INTO stepward.attempt (run_id, started_at, seq, epoch, elapsed, attempt, mode, key, error, forgiven)
    SELECT $1, started_at, seq, epoch, elapsed, attempt, mode::int, key, error, true FROM gone WHERE repeats
    ON CONFLICT (run_id, seq, attempt) DO UPDATE SET elapsed = excluded.elapsed, error = excluded.error, forgiven = true
)
SELECT calls FROM fatal;

-- name: RetryAttempts
-- After RetrySteps, whose answer is $2: earlier attempts do not count, and those of calls that were taken off go.
WITH gone AS (
    DELETE FROM stepward.attempt WHERE run_id = $1 AND seq > $2 RETURNING started_at, elapsed, key, error
), noted AS (
    INSERT INTO stepward.event (at, run_id, kind, actor, step, detail)
    SELECT started_at + make_interval(secs => elapsed), $1, 'attempt.failed', 'worker', key, error FROM gone WHERE error IS NOT NULL
)
UPDATE stepward.attempt SET forgiven = true WHERE run_id = $1 AND seq <= $2 AND forgiven IS NULL;

-- name: RunRetry
-- After RetrySteps, in its transaction. The epoch rises, so that a late repetition of the commit that
-- ended the run does not end it again. A deadline that is still to come is dropped.
WITH was AS (
    SELECT e.at, e.run_id, e.kind, e.actor, e.detail FROM stepward.audit_event e
    WHERE e.run_id = $1 AND e.kind IN ('run.failed', 'run.canceled') ORDER BY e.at DESC LIMIT 1
), noted AS (
    INSERT INTO stepward.event (at, run_id, kind, actor, detail)
    SELECT at, run_id, kind, actor, detail FROM was UNION ALL SELECT clock_timestamp(), $1, 'run.retry', $2, NULL
), opened AS (
    UPDATE stepward.run SET state = 'live', finished_at = NULL, error = NULL, cancel = false, late = false, pause = false, crashes = 0, epoch = epoch + 1, session = NULL
    WHERE id = $1 RETURNING id, requirement_id
), timeless AS (
    DELETE FROM stepward.deadline WHERE run_id = $1
)
INSERT INTO stepward.ready (requirement_id, run_id) SELECT requirement_id, id FROM opened;

-- name: RunRepin
-- After RunLock, in its transaction: a run that no worker holds moves to version $3. If it is parked for
-- what another version may cure, it becomes ready. No row: there is no such version.
WITH target AS (
    SELECT r.id, r.version AS old, d.requirement_id, EXISTS (SELECT FROM stepward.turn WHERE run_id = $1) AS held
    FROM stepward.run r JOIN stepward.definition d ON d.workflow = r.workflow AND d.version = $3 WHERE r.id = $1
), moved AS (
    UPDATE stepward.run r SET version = $3, requirement_id = target.requirement_id FROM target
    WHERE r.id = target.id AND NOT target.held AND target.old <> $3
    RETURNING r.id, r.requirement_id, r.pause, target.old
), q AS (
    DELETE FROM stepward.ready USING moved, stepward.run r -- its snapshot is from before
    WHERE r.id = moved.id AND (ready.requirement_id, ready.gate, ready.tenant, ready.rank, ready.run_id)
        = (r.requirement_id, stepward.gate(r.limit_key, r.epoch), r.tenant, stepward.rank(r.id, r.priority), r.id) RETURNING ready.run_id
), p AS (
    DELETE FROM stepward.parked USING moved
    WHERE parked.run_id = moved.id AND parked.reason <> 'crashed' AND NOT moved.pause RETURNING parked.run_id
), stays AS (
    UPDATE stepward.parked SET requirement_id = moved.requirement_id FROM moved
    WHERE parked.run_id = moved.id AND (parked.reason = 'crashed' OR moved.pause)
), back AS (
    INSERT INTO stepward.ready (requirement_id, run_id)
    SELECT moved.requirement_id, moved.id FROM moved WHERE EXISTS (SELECT FROM q) OR EXISTS (SELECT FROM p) RETURNING run_id
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor, detail)
    SELECT id, 'run.repin', $2, convert_to(json_build_object('from', old, 'to', $3::text)::text, 'UTF8') FROM moved
)
SELECT target.held, EXISTS (SELECT FROM back) FROM target;

-- name: RunEnd
-- Locks a run that may have ended.
SELECT state::text, error FROM stepward.run WHERE id = $1 FOR NO KEY UPDATE;
