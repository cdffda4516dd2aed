-- name: StepHistory
-- A time limit has no output, though the column says something of it.
SELECT seq, done, key, attempt, input_hash, CASE WHEN error = '' AND NOT (attempt = 0 AND key ~ '(^|/)timeout:') THEN nullif(output, '') END, nullif(error, '') FROM stepward.step
WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3;

-- name: StepSizes
-- The same with how many bytes the result has in place of it. A size is read from a row without the value.
SELECT seq, done, key, attempt, input_hash, CASE WHEN attempt = 0 AND key ~ '(^|/)timeout:' OR seq = 0 THEN 0 WHEN length(error) > 0 THEN length(error) ELSE length(output) END FROM stepward.step
WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3;

-- name: StepResults
-- Of a run that is held in an epoch. None, when it is not: another turn may have put other results in their places.
SELECT s.seq, CASE WHEN s.error = '' THEN s.output END, nullif(s.error, '')
FROM stepward.run r JOIN stepward.step s ON s.run_id = r.id AND s.seq = ANY($4)
WHERE r.id = $1 AND r.epoch = $2 AND r.session = $3;

-- name: AttemptHistory
-- Of the steps without a checkpoint: the last number given, how many failed, the wait that is left, and what was reported last;
-- and if the last has begun in a sandbox, and its end is not on record, that and for how long. Where versions have put
-- one step after another in a place: of that which was tried last.
SELECT DISTINCT ON (a.seq) a.seq, a.key, max(a.attempt)::int, (count(a.error) FILTER (WHERE a.forgiven IS NULL))::int,
       coalesce(extract(epoch FROM max(a.retry_at) FILTER (WHERE a.forgiven IS NULL) - clock_timestamp()), 0)::float8,
       (array_agg(a.details ORDER BY a.attempt DESC) FILTER (WHERE a.details IS NOT NULL))[1],
       coalesce((array_agg(CASE WHEN a.sandbox_id IS NOT NULL AND a.error IS NULL AND a.forgiven IS NULL AND EXISTS (
           SELECT FROM stepward.event e WHERE e.run_id = a.run_id AND e.kind IN ('sandbox.created', 'sandbox.joined') AND e.step = a.key
             AND position(convert_to('"' || a.sandbox_id || '"', 'UTF8') IN e.detail) > 0) THEN a.sandbox_id END ORDER BY a.attempt DESC))[1], ''),
       extract(epoch FROM clock_timestamp() - max(a.started_at))::float8
FROM stepward.attempt a
WHERE a.run_id = $1 AND NOT EXISTS (SELECT FROM stepward.step s WHERE s.run_id = $1 AND s.seq = a.seq)
GROUP BY a.seq, a.key
ORDER BY a.seq, max(a.attempt) DESC;

-- name: WaitList
SELECT seq, key, extract(epoch FROM wake_at - clock_timestamp())::float8, coalesce(signal, ''), coalesce(child_id, 0)
FROM stepward.wait WHERE run_id = $1;

-- name: StepList
-- The worker of an attempt in a sandbox is who has, or had, that: another one may only have found it lost.
SELECT s.seq, s.key, s.mode::int, s.attempt, s.epoch, s.started_at, s.elapsed, CASE WHEN s.error = '' AND NOT (s.attempt = 0 AND s.key ~ '(^|/)timeout:') THEN nullif(s.output, '') END, nullif(s.error, ''), true, b.backend, b.id,
       coalesce(w.name, ''), NULL::timestamptz, a.details, a.beat_at
FROM stepward.step s
LEFT JOIN stepward.attempt a ON a.run_id = s.run_id AND a.seq = s.seq AND a.attempt = s.attempt
LEFT JOIN stepward.sandbox b ON b.id = a.sandbox_id
LEFT JOIN stepward.claim c ON c.run_id = s.run_id AND c.epoch = s.epoch
LEFT JOIN stepward.worker w ON w.session = coalesce(b.session, c.session)
WHERE s.run_id = $1 AND s.seq > $2
UNION ALL
SELECT a.seq, a.key, a.mode, a.attempt, a.epoch, a.started_at, a.elapsed, NULL, a.error, false, b.backend, b.id,
       coalesce(w.name, ''), a.retry_at, a.details, a.beat_at
FROM stepward.attempt a
LEFT JOIN stepward.sandbox b ON b.id = a.sandbox_id
LEFT JOIN stepward.claim c ON c.run_id = a.run_id AND c.epoch = a.epoch
LEFT JOIN stepward.worker w ON w.session = coalesce(b.session, c.session)
WHERE a.run_id = $1 AND a.seq > $2
  AND NOT EXISTS (SELECT FROM stepward.step s WHERE s.run_id = a.run_id AND s.seq = a.seq AND s.attempt = a.attempt)
ORDER BY 1, 4
LIMIT $3;

-- name: StepPlace
-- Where in program order a call is that is on record: by its result, by attempts that failed, or by
-- what the body waits for.
SELECT min(seq) FROM (
    SELECT seq FROM stepward.step WHERE run_id = $1 AND key = $2 AND seq > 0
    UNION ALL SELECT seq FROM stepward.attempt WHERE run_id = $1 AND key = $2
    UNION ALL SELECT seq FROM stepward.wait WHERE run_id = $1 AND key = $2
) c;

-- name: StepKeys
SELECT key FROM stepward.step WHERE run_id = $1 AND seq > 0
UNION SELECT key FROM stepward.attempt WHERE run_id = $1
UNION SELECT key FROM stepward.wait WHERE run_id = $1;
