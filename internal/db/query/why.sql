-- name: WhyWaits
SELECT w.key, coalesce(w.signal, ''), coalesce(w.child_id, 0), w.wake_at, w.since
FROM stepward.wait w WHERE w.run_id = $1 AND coalesce(w.child_id, 0) >= 0 ORDER BY w.seq LIMIT 1000;

-- name: WhyAttempts
-- Of the steps without a checkpoint whose last attempt failed: when that was, and when the next may start.
SELECT key, started_at + make_interval(secs => elapsed), retry_at, error
FROM (SELECT DISTINCT ON (a.seq) a.seq, a.key, a.started_at, a.elapsed, a.retry_at, a.error, a.forgiven FROM stepward.attempt a
      WHERE a.run_id = $1 AND NOT EXISTS (SELECT FROM stepward.step s WHERE s.run_id = $1 AND s.seq = a.seq)
      ORDER BY a.seq, a.attempt DESC) last
WHERE error IS NOT NULL AND forgiven IS NULL AND retry_at > clock_timestamp() ORDER BY seq LIMIT 1000;

-- name: WhyHolder
-- Since when a run is held, and whether the lease of its worker lasts.
SELECT c.at, coalesce(w.state IN ('live', 'draining') AND w.lease_until > clock_timestamp(), false)
FROM stepward.turn t
JOIN stepward.claim c ON c.run_id = t.run_id AND c.epoch = t.epoch
LEFT JOIN stepward.worker w ON w.session = t.session
WHERE t.run_id = $1;

-- name: WhyWorkers
-- The workers that may claim a run, the places that they have, and how many are taken; and until when they leave it to
-- others, for want of what: see WorkerPasses.
SELECT w.name, w.max_runs, (SELECT count(*)::int FROM stepward.turn t WHERE t.session = w.session), to_timestamp(p.until), coalesce(p.lack, '')
FROM stepward.run r JOIN stepward.worker w ON r.requirement_id = ANY(w.requirements)
LEFT JOIN stepward.binding b ON b.run_id = r.id
LEFT JOIN LATERAL (
    SELECT (value ->> 'until')::float8 AS until, value ->> 'lack' AS lack FROM jsonb_each(w.passes)
    WHERE (key = concat_ws(' ', CASE WHEN b.run_id IS NULL THEN 0 ELSE hash_record_extended(ROW(b.body), 0) END, r.workflow, r.tenant) OR key = 'all' AND b.run_id IS NOT NULL)
      AND (value ->> 'until')::float8 > extract(epoch FROM clock_timestamp())
    ORDER BY 1 DESC LIMIT 1
) p ON true
WHERE r.id = $1 AND w.state = 'live' AND w.lease_until > clock_timestamp()
ORDER BY w.name, w.session;
