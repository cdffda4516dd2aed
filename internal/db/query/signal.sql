-- name: SignalSend
-- After RunLock, in its transaction. A run that waits for the signal becomes ready; one that is held is
-- told through the channel $4.
WITH sent AS (
    INSERT INTO stepward.signal (run_id, name, payload) VALUES ($1, $2, $3)
), woken AS (
    DELETE FROM stepward.timer t WHERE t.run_id = $1
      AND EXISTS (SELECT FROM stepward.wait w WHERE w.run_id = $1 AND w.signal = $2)
    RETURNING run_id
), back AS (
    INSERT INTO stepward.ready (requirement_id, run_id) SELECT r.requirement_id, r.id FROM stepward.run r JOIN woken ON woken.run_id = r.id
), told AS (
    SELECT pg_notify($4::text, t.run_id::text) FROM stepward.turn t WHERE t.run_id = $1
)
SELECT EXISTS (SELECT FROM woken), (SELECT count(*) FROM told);

-- name: SignalList
-- Of each name in $2 the first $4 with an id above that in $3: however many there are of another name, those of this one come.
SELECT s.id, x.name, s.payload FROM unnest($2::text[], $3::bigint[]) AS x(name, after)
CROSS JOIN LATERAL (
    SELECT id, payload FROM stepward.signal WHERE run_id = $1 AND name = x.name AND id > x.after AND NOT received ORDER BY id LIMIT $4
) s
ORDER BY s.id;

-- name: ChildEnds
SELECT id, state::text, output, error FROM stepward.run WHERE id = ANY($1::bigint[]) AND state <> 'live';

-- name: ChildWait
-- After the run's row was locked. No row: the lease is lost. Also how deep the run is nested, up to $6, which
-- costs nothing where it is no child.
SELECT coalesce((SELECT w.child_id FROM stepward.wait w WHERE w.run_id = r.id AND w.seq = $4 AND w.key = $5), 0),
       CASE WHEN r.parent_id IS NULL THEN 0 ELSE (
           WITH RECURSIVE above AS (
               SELECT r.parent_id AS id, 1 AS depth
               UNION ALL SELECT p.parent_id, above.depth + 1 FROM above JOIN stepward.run p ON p.id = above.id
               WHERE p.parent_id IS NOT NULL AND above.depth < $6
           ) SELECT max(depth) FROM above) END
FROM stepward.run r WHERE r.id = $2 AND r.epoch = $3 AND r.session = $1 AND r.state = 'live';

-- name: ChildPatience
-- Before a child with a key or a limit, which a transaction of the application may hold that waits for the parent's
-- row: the worker gives way, and tries again, before Postgres looks for a deadlock and ends that one.
SELECT set_config('lock_timeout', '500ms', true);

-- name: ChildInsert
INSERT INTO stepward.wait (run_id, seq, key, child_id) VALUES ($1, $2, $3, $4)
ON CONFLICT (run_id, seq) DO UPDATE SET key = excluded.key, child_id = excluded.child_id, wake_at = NULL, signal = NULL, since = excluded.since;

-- name: ChildParent
UPDATE stepward.run SET parent_id = $2 WHERE id = $1;

-- name: NoticeTake
-- Up to 500, and the lock on the runs that they are for. What is for a run that somebody has locked, be it
-- for long, is left to the next look.
WITH free AS MATERIALIZED (
    SELECT n.id, r.state FROM (SELECT id, run_id FROM stepward.notice ORDER BY id) n
    LEFT JOIN LATERAL (SELECT state FROM stepward.run WHERE run.id = n.run_id FOR NO KEY UPDATE SKIP LOCKED) r ON true
    WHERE r.state IS NOT NULL OR NOT EXISTS (SELECT FROM stepward.run WHERE run.id = n.run_id) -- it was deleted
    LIMIT 500
), taken AS (
    DELETE FROM stepward.notice USING free WHERE notice.id = free.id
    RETURNING notice.run_id, notice.cancel, notice.terminate, free.state
)
SELECT run_id, bool_or(cancel), bool_or(terminate) FROM taken WHERE state = 'live' GROUP BY run_id ORDER BY run_id;

-- name: NoticeWake
-- After NoticeTake, in its transaction, but with a newer snapshot: runs that wait become ready, and
-- those that are held are told through the channel $2.
WITH woken AS (
    DELETE FROM stepward.timer WHERE run_id = ANY($1::bigint[]) RETURNING run_id
), back AS (
    INSERT INTO stepward.ready (requirement_id, run_id) SELECT r.requirement_id, r.id FROM stepward.run r JOIN woken ON woken.run_id = r.id
)
SELECT count(*)::int, (SELECT count(pg_notify($2::text, t.run_id::text)) FROM stepward.turn t WHERE t.run_id = ANY($1::bigint[])) FROM woken;
