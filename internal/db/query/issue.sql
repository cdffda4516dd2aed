-- name: IssueFacts
-- What is on record about an attempt that a worker speaks for. No row: it is not that worker's, or is over. The last are names
-- and sessions of workers that had the attempt before.
SELECT r.tenant, r.workflow, r.version, a.key, a.mode, coalesce(d.steps, ''), coalesce(w.name, ''),
       ARRAY(SELECT v.x FROM stepward.claim c LEFT JOIN stepward.worker b ON b.session = c.session
             CROSS JOIN LATERAL (VALUES (to_hex(c.session)), (b.name)) AS v(x)
             WHERE c.run_id = r.id AND c.epoch < r.epoch AND v.x IS NOT NULL
               AND c.epoch >= coalesce((SELECT max(c.epoch) FROM stepward.claim c WHERE c.run_id = r.id AND c.at <= a.started_at), 0))
FROM stepward.run r
JOIN stepward.attempt a ON a.run_id = r.id AND a.seq = $4 AND a.attempt = $5
LEFT JOIN stepward.definition d ON d.workflow = r.workflow AND d.version = r.version
LEFT JOIN stepward.worker w ON w.session = r.session
WHERE r.id = $1 AND r.epoch = $2 AND r.session = $3 AND r.state = 'live'
  AND a.epoch = $2 AND a.sandbox_id = $6 AND a.error IS NULL
  AND NOT EXISTS (SELECT FROM stepward.step s WHERE s.run_id = r.id AND s.seq = a.seq);

-- name: IssueCheck
-- What is on record about a run that a worker speaks for, before it has a sandbox. No row: as IssueFacts.
SELECT r.tenant, r.workflow, r.version, coalesce(d.steps, ''), coalesce(w.name, '')
FROM stepward.run r
LEFT JOIN stepward.definition d ON d.workflow = r.workflow AND d.version = r.version
LEFT JOIN stepward.worker w ON w.session = r.session
WHERE r.id = $1 AND r.epoch = $2 AND r.session = $3 AND r.state = 'live';

-- name: IssuePut
-- Records what is about to leave. False: the attempt is not that worker's any more; null: something was revoked since these
-- epochs of the tenant and of the deployment. Then nothing was written.
SELECT stepward.put_issue($1::bigint, $2::int, $3::bigint, $4::int, $5::int, $6::text, $7::bytea, $8::text, $9::bigint, $10::jsonb, $11::bytea, $12::bytea, $13::text, $14::bigint, $15::bigint, $16::text);

-- name: IssueOpened
-- The envelope that was issued last is open. Again is no change; no row: there is none.
WITH last AS MATERIALIZED (
    SELECT i.id, i.run_id, i.step, i.opened_at FROM stepward.issue i
    JOIN stepward.run r ON r.id = i.run_id AND r.epoch = $2 AND r.session = $3
    WHERE i.run_id = $1 AND i.seq = $4 AND i.attempt = $5 AND i.sandbox_id = $6 AND i.closed_at IS NULL
    ORDER BY i.issued_at DESC LIMIT 1
), opened AS (
    UPDATE stepward.issue i SET opened_at = clock_timestamp() FROM last WHERE i.id = last.id AND i.opened_at IS NULL RETURNING i.run_id, i.id
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor, step, detail)
    SELECT last.run_id, 'envelope.opened', $7::text, last.step, convert_to(json_build_object('envelope', encode(last.id, 'hex'))::text, 'UTF8')
    FROM last JOIN opened USING (id)
)
SELECT id FROM last;

-- name: IssueOpen
-- The envelope that was issued last to an attempt, and the time for the count of its renewals.
SELECT i.id, i.pins, i.renewal, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
FROM stepward.issue i
WHERE i.run_id = $1 AND i.seq = $2 AND i.attempt = $3 AND i.sandbox_id = $4 AND i.closed_at IS NULL
ORDER BY i.issued_at DESC LIMIT 1;

-- name: IssueClose
-- What was issued to an attempt has no use any more. Its leases are for the broker to end.
WITH due AS MATERIALIZED (
    SELECT i.id FROM stepward.issue i JOIN stepward.run r ON r.id = i.run_id AND r.epoch = $2 AND r.session = $3
    WHERE i.run_id = $1 AND i.seq = $4 AND i.attempt = $5 AND i.sandbox_id = $6 AND i.closed_at IS NULL
    ORDER BY i.id FOR UPDATE OF i
), closed AS (
    UPDATE stepward.issue i SET closed_at = clock_timestamp() FROM due WHERE i.id = due.id RETURNING i.id, i.run_id, i.step, i.leases
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor, step, detail)
    SELECT run_id, 'envelope.closed', $7::text, step, convert_to(json_build_object('envelope', encode(id, 'hex'))::text, 'UTF8') FROM closed
)
SELECT id FROM closed;

-- name: IssueSweep
-- Closes what belongs to attempts that are over, whoever has left it open.
WITH due AS MATERIALIZED (
    SELECT i.id FROM stepward.issue i
    WHERE i.closed_at IS NULL AND i.issued_at < clock_timestamp() - interval '10 s'
      AND NOT EXISTS (SELECT FROM stepward.run r JOIN stepward.attempt a ON a.run_id = r.id AND a.seq = i.seq AND a.attempt = i.attempt AND a.sandbox_id = i.sandbox_id
                      WHERE r.id = i.run_id AND r.state = 'live' AND a.error IS NULL
                        AND NOT EXISTS (SELECT FROM stepward.step s WHERE s.run_id = r.id AND s.seq = i.seq))
    ORDER BY i.id LIMIT 500 FOR UPDATE OF i SKIP LOCKED
), closed AS (
    UPDATE stepward.issue i SET closed_at = clock_timestamp() FROM due WHERE i.id = due.id RETURNING i.id, i.run_id, i.step
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor, step, detail)
    SELECT run_id, 'envelope.closed', $1::text, step, convert_to(json_build_object('envelope', encode(id, 'hex'), 'swept', true)::text, 'UTF8') FROM closed
)
SELECT count(*) FROM closed;

-- name: IssueLeases
-- Takes what was closed and has leases that are not over, in the order of their turns: what is taken goes to the end. Also, whether
-- that is due for long.
WITH due AS MATERIALIZED (
    SELECT id FROM stepward.issue WHERE closed_at IS NOT NULL AND leases IS NOT NULL
    ORDER BY tried_at NULLS FIRST LIMIT 100 FOR UPDATE SKIP LOCKED
)
UPDATE stepward.issue i SET tried_at = clock_timestamp() FROM due WHERE i.id = due.id
RETURNING i.id, i.leases, coalesce(i.lease_state, 'held'), i.closed_at < clock_timestamp() - interval '5 min';

-- name: IssueReleased
-- What came of asking for the end of its leases ($2): those as they are now ($3, null: all are over), and events about them. No
-- change if somebody else has asked meanwhile.
WITH asked AS (
    UPDATE stepward.issue SET leases = $3, lease_state = $4, lease_tries = lease_tries + 1, lease_error = $5
    WHERE id = $1 AND leases = $2 RETURNING run_id, step
)
INSERT INTO stepward.event (run_id, kind, actor, step, detail)
SELECT asked.run_id, e ->> 'kind', $6::text, asked.step, convert_to((e -> 'detail')::text, 'UTF8')
FROM asked, json_array_elements($7::json) e;

-- name: IssueNoted
-- That an attempt was refused its secrets, or one of them was withheld, and why.
INSERT INTO stepward.event (run_id, kind, actor, step, detail) VALUES ($1, $2, $3, $4, $5);

-- name: Installation
-- What no other schema has, of whichever database.
SELECT format('%s-%s-%s', c.system_identifier, d.oid, 'stepward.migration'::regclass::oid) FROM pg_control_system() c, pg_database d WHERE d.datname = current_database();
