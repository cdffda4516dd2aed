-- name: DeadlineTake
-- Up to 500 deadlines that have passed, and the lock on the runs. What another worker is at is left
-- to it, or to the next look.
WITH due AS MATERIALIZED (
    SELECT d.run_id, r.state, r.cancel FROM stepward.deadline d JOIN stepward.run r ON r.id = d.run_id
    WHERE d.at <= (SELECT clock_timestamp())
    ORDER BY d.at LIMIT 500 FOR NO KEY UPDATE OF d, r SKIP LOCKED
), gone AS (
    DELETE FROM stepward.deadline USING due WHERE deadline.run_id = due.run_id
)
SELECT run_id FROM due WHERE state = 'live' AND NOT cancel;

-- name: DeadlinePass
-- After DeadlineTake, in its transaction, but with a newer snapshot. As RunCancel, but that it is
-- late which ends the run, so that it ends as failed; $3 is the error of one that ends here and now,
-- $4 the channel.
WITH t AS (
    DELETE FROM stepward.timer WHERE run_id = ANY($1::bigint[]) RETURNING run_id
), q AS (
    DELETE FROM stepward.ready USING stepward.run r
    WHERE r.id = ANY($1::bigint[]) AND r.epoch = 0 AND (ready.requirement_id, ready.gate, ready.tenant, ready.rank, ready.run_id)
        = (r.requirement_id, stepward.gate(r.limit_key, r.epoch), r.tenant, stepward.rank(r.id, r.priority), r.id)
    RETURNING run_id
), p AS (
    DELETE FROM stepward.parked WHERE run_id = ANY($1::bigint[]) RETURNING run_id, reason
), free AS (
    SELECT run_id FROM q UNION SELECT p.run_id FROM p JOIN stepward.run r ON r.id = p.run_id WHERE p.reason <> 'paused' OR r.epoch = 0
), woken AS (
    INSERT INTO stepward.ready (requirement_id, run_id) SELECT r.requirement_id, r.id FROM stepward.run r
    WHERE r.id IN (SELECT run_id FROM t UNION SELECT run_id FROM p EXCEPT SELECT run_id FROM free) RETURNING run_id
), ended AS (
    UPDATE stepward.run r SET cancel = true, late = true, pause = false,
        state = CASE WHEN f.run_id IS NULL THEN r.state ELSE 'failed' END,
        error = CASE WHEN f.run_id IS NOT NULL THEN $3::bytea END,
        finished_at = CASE WHEN f.run_id IS NOT NULL THEN clock_timestamp() END,
        epoch = r.epoch + CASE WHEN f.run_id IS NULL THEN 0 ELSE 1 END
    FROM unnest($1::bigint[]) AS x(id) LEFT JOIN free f ON f.run_id = x.id
    WHERE r.id = x.id AND r.state = 'live'
    RETURNING r.id, r.state, r.parent_id
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor) SELECT id, 'run.deadline', $2::text FROM ended
), waits AS (
    DELETE FROM stepward.wait USING ended WHERE wait.run_id = ended.id AND ended.state = 'failed' RETURNING wait.child_id
), notices AS (
    INSERT INTO stepward.notice (run_id, cancel)
    SELECT parent_id, false FROM ended WHERE state = 'failed' AND parent_id IS NOT NULL
    UNION ALL SELECT child_id, true FROM waits WHERE child_id IS NOT NULL
    RETURNING 1
), told AS (
    SELECT pg_notify($4::text, '!' || turn.run_id) FROM stepward.turn WHERE run_id = ANY($1::bigint[])
)
SELECT EXISTS (SELECT FROM woken), EXISTS (SELECT FROM notices), (SELECT count(*) FROM told);

-- name: RunLate
-- Whether it is its deadline that has canceled a run.
SELECT late FROM stepward.run WHERE id = $1;
