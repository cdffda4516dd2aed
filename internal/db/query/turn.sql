-- name: Claim
-- $1 session, $2 requirement to take from, $3 and $4 requirement and version to pin, $5 how many, $6 the
-- tenant that was served last. Tenants take turns, beginning after that one: lane finds, from index entry
-- to index entry, those that have runs, and spread deals the places out to them, one each, then another.
-- Nothing is locked for it. The runs that are taken are locked, and what others have locked is passed
-- over. Their ready rows are deleted without: one that another claim deleted first does not come back
-- from taken, and its run is left alone. A last
-- row without a run says that more was there: a lane that was looked at in part, or what was passed over;
-- one of epoch 1 that there are runs with a limit, which ClaimLimited takes.
-- $7 to $9 are what this worker has handed on: pinned requirement, tenant and binding of the runs, which it leaves to others. Their
-- lanes are looked at beside the others, and take no place of theirs; of a lane's first runs the others are taken:
-- of 1,000, or of its share of 5,000 where that is less, as each that is looked at costs two microseconds.
-- The limits of 1,000 and the arrays are for the planner: without them it takes the rest for a tenth of all
-- rows, and reads the tables from end to end.
WITH RECURSIVE want AS (
    SELECT w.id, w.pin_id, w.version FROM unnest($2::int[], $3::int[], $4::text[]) AS w(id, pin_id, version)
    WHERE EXISTS (SELECT FROM stepward.worker WHERE session = $1 AND state = 'live' AND lease_until > clock_timestamp())
), lane AS (
    SELECT id, pin_id, $6::text COLLATE "C" AS tenant, false AS round, 0 AS n, NULL::bigint[] AS handed FROM want
    UNION ALL
    SELECT lane.id, lane.pin_id, next.tenant, next.round, lane.n + CASE left_to.handed WHEN '{}' THEN 1 ELSE 0 END, left_to.handed
    FROM lane CROSS JOIN LATERAL (
        SELECT tenant, lane.round FROM (
            SELECT q.tenant FROM stepward.ready q WHERE q.requirement_id = lane.id AND q.gate = '' AND q.tenant > lane.tenant ORDER BY q.tenant LIMIT 1
        ) later WHERE tenant <= $6 OR NOT lane.round
        UNION ALL
        (SELECT q.tenant, true FROM stepward.ready q
         WHERE q.requirement_id = lane.id AND q.gate = '' AND q.tenant <= $6 AND NOT lane.round ORDER BY q.tenant LIMIT 1)
        ORDER BY round LIMIT 1
    ) next CROSS JOIN LATERAL (
        SELECT ARRAY(SELECT h.binding FROM unnest($7::int[], $8::text[], $9::bigint[]) AS h(id, tenant, binding)
                     WHERE h.id = lane.pin_id AND h.tenant COLLATE "C" = next.tenant) AS handed
    ) left_to
    WHERE lane.n < $5
), deep AS (
    SELECT least($5, 1 + 4 * $5 / greatest(1, count(DISTINCT tenant) FILTER (WHERE handed = '{}'))) AS depth,
           5000 / greatest(5, count(*) FILTER (WHERE handed <> '{}')) AS look FROM lane WHERE handed IS NOT NULL HAVING count(*) > 0
), seen AS (
    SELECT lane.id, lane.tenant, lane.round, lane.handed, deep.depth, head.rank, row_number() OVER (PARTITION BY lane.tenant ORDER BY head.rank) AS k
    FROM deep CROSS JOIN lane CROSS JOIN LATERAL (
        SELECT rank FROM (
            SELECT * FROM (
                SELECT q.rank, q.run_id FROM stepward.ready q WHERE q.requirement_id = lane.id AND q.gate = '' AND q.tenant = lane.tenant ORDER BY q.rank LIMIT 1000
            ) front LIMIT CASE lane.handed WHEN '{}' THEN 1000 ELSE deep.look END
        ) first WHERE lane.handed = '{}' OR coalesce((SELECT hash_record_extended(ROW(b.body), 0) FROM stepward.binding b WHERE b.run_id = first.run_id), 0) <> ALL(lane.handed) LIMIT deep.depth
    ) head
    WHERE lane.handed IS NOT NULL
), spread AS (
    SELECT id, tenant, round, handed, count(*) AS n, count(*) = max(depth) AND max(depth) < $5 AS cut
    FROM (SELECT * FROM seen ORDER BY k, round, tenant LIMIT $5) s GROUP BY id, tenant, round, handed
), picked AS MATERIALIZED (
    SELECT p.run_id, p.place, p.since, spread.round, want.pin_id, want.version
    FROM spread JOIN want ON want.id = spread.id CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT q.run_id, q.ctid AS place, q.since FROM stepward.ready q
            CROSS JOIN LATERAL (SELECT FROM stepward.run WHERE run.id = q.run_id FOR NO KEY UPDATE SKIP LOCKED) r
            WHERE q.requirement_id = spread.id AND q.gate = '' AND q.tenant = spread.tenant
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
        coalesce(r.origin_id, r.id) AS seed, picked.since, picked.round
), turned AS (
    INSERT INTO stepward.turn (run_id, session, epoch) SELECT id, $1, epoch FROM held
), noted AS (
    INSERT INTO stepward.claim (run_id, epoch, session) SELECT id, epoch, $1 FROM held
)
SELECT id, epoch, tenant, workflow, version, traceparent, tick, input, cancel, priority, waited, seed, '' FROM (
    SELECT *, extract(epoch FROM clock_timestamp() - since)::float8 AS waited FROM held
    UNION ALL
    SELECT 0, 0, '', '', '', NULL, NULL, '', false, 0, 0, NULL, true, 0 FROM spread
    HAVING sum(n) > (SELECT count(*) FROM picked) OR bool_or(cut) AND (SELECT count(*) FROM picked) < $5
    UNION ALL
    SELECT 0, 1, '', '', '', NULL, NULL, '', false, 0, 0, NULL, true, 0
    WHERE EXISTS (SELECT FROM want CROSS JOIN LATERAL (SELECT FROM stepward.ready q WHERE q.requirement_id = want.id AND q.gate > '' LIMIT 1) x)
) answer
ORDER BY id = 0, round, tenant COLLATE "C", id;

-- name: Commit
-- The writes of many turns in one statement. $1 session; $2, $3 the turns (run, epoch); $4 to $14
-- checkpoints; $15 to $25 attempts, with what they report in $60, and an error without a delay for one that does not count; $26 to $29 finished runs; $30 the checkpoints' place in the order
-- of results; $31 to $35 waits; $36, $37 waits that ended without a checkpoint; $38, $39 signals that
-- a checkpoint holds, with their names in $63; $40, $41 children to cancel; $42, $43 blobs that it refers to; $44 to $46 up to where
-- the body's calls are shown; $47 to $51 entries, with the numbers that guests gave them in $62; $52 to $55 progress; $56 to $58 attributes; $59 runs
-- whose watchers are told, through the channel $61. A run that does not come back is no
-- longer this session's: nothing of it was written. Nor was it of one that comes back with -1: somebody
-- has locked it, perhaps for long, and the others must not wait for that. Whether it is still this session's is
-- for a later try to say. A checkpoint that is there already is
-- left out, not ON CONFLICT: that would cost a record of WAL for each. The price is an error,
-- unique_violation, when an earlier try of the same turn commits between this one's snapshot and its lock.
WITH held AS MATERIALIZED (
    SELECT r.id, r.epoch, r.cancel FROM stepward.run r
    WHERE (r.id, r.epoch) IN (SELECT x.id, x.epoch FROM unnest($2::bigint[], $3::int[]) AS x(id, epoch))
      AND r.session = $1 AND r.state = 'live'
    ORDER BY r.id FOR NO KEY UPDATE SKIP LOCKED
), checkpoint AS (
    INSERT INTO stepward.step (run_id, seq, done, key, attempt, epoch, mode, started_at, elapsed, input_hash, output, error)
    SELECT x.run_id, x.seq, x.done, x.key, x.attempt, x.epoch, x.mode::"char", statement_timestamp() - make_interval(secs => x.ago), x.elapsed, x.input_hash, coalesce(x.output, ''), coalesce(x.error, '')
    FROM unnest($4::bigint[], $5::int[], $6::text[], $7::int[], $8::int[], $9::int[], $10::float8[], $11::float4[], $12::bigint[], $13::bytea[], $14::bytea[], $30::int[])
        AS x(run_id, seq, key, attempt, epoch, mode, ago, elapsed, input_hash, output, error, done)
    JOIN held ON held.id = x.run_id
    WHERE NOT EXISTS (SELECT FROM stepward.step s WHERE s.run_id = x.run_id AND s.seq = x.seq)
    RETURNING run_id
), attempted AS (
    INSERT INTO stepward.attempt (run_id, seq, key, attempt, epoch, mode, started_at, elapsed, sandbox_id, error, retry_at, beat_at, details, forgiven)
    SELECT x.run_id, x.seq, x.key, x.attempt, x.epoch, x.mode, statement_timestamp() - make_interval(secs => x.ago), x.elapsed, x.sandbox_id, x.error,
           clock_timestamp() + make_interval(secs => x.delay), CASE WHEN x.details IS NOT NULL THEN statement_timestamp() END, x.details,
           CASE WHEN x.error IS NOT NULL AND x.delay IS NULL THEN true END
    FROM unnest($15::bigint[], $16::int[], $17::text[], $18::int[], $19::int[], $20::int[], $21::float8[], $22::float4[], $23::text[], $24::bytea[], $25::float8[], $60::bytea[])
        AS x(run_id, seq, key, attempt, epoch, mode, ago, elapsed, sandbox_id, error, delay, details)
    JOIN held ON held.id = x.run_id
    ON CONFLICT (run_id, seq, attempt) DO UPDATE
        SET elapsed = excluded.elapsed, error = excluded.error, retry_at = excluded.retry_at, forgiven = excluded.forgiven,
            beat_at = coalesce(excluded.beat_at, attempt.beat_at), details = coalesce(excluded.details, attempt.details)
        WHERE attempt.epoch = excluded.epoch AND attempt.error IS NULL
), finished AS (
    UPDATE stepward.run r SET state = x.state::stepward.run_state, output = x.output, error = x.error, finished_at = statement_timestamp()
    FROM unnest($26::bigint[], $27::text[], $28::bytea[], $29::bytea[]) AS x(run_id, state, output, error)
    JOIN held ON held.id = x.run_id
    WHERE r.id = x.run_id
    RETURNING r.id, r.parent_id
), ended AS (
    DELETE FROM stepward.turn USING finished WHERE turn.run_id = finished.id
), waits AS (
    INSERT INTO stepward.wait (run_id, seq, key, wake_at, signal)
    SELECT x.run_id, x.seq, x.key, clock_timestamp() + make_interval(secs => x.left_s), x.signal
    FROM unnest($31::bigint[], $32::int[], $33::text[], $34::float8[], $35::text[]) AS x(run_id, seq, key, left_s, signal)
    JOIN held ON held.id = x.run_id
    ON CONFLICT (run_id, seq) DO UPDATE SET key = excluded.key, wake_at = excluded.wake_at, signal = excluded.signal, child_id = NULL, since = excluded.since
        WHERE wait.key <> excluded.key -- of a version that waited for something else at this place
), over AS (
    DELETE FROM stepward.wait USING unnest($36::bigint[], $37::int[]) AS x(run_id, seq), held
    WHERE held.id = x.run_id AND wait.run_id = x.run_id AND wait.seq = x.seq
), received AS (
    UPDATE stepward.signal SET received = true FROM unnest($38::bigint[], $39::bigint[], $63::text[]) AS x(run_id, id, name), held
    WHERE held.id = x.run_id AND signal.run_id = x.run_id AND signal.name = x.name AND signal.id = x.id
), notices AS (
    INSERT INTO stepward.notice (run_id, cancel)
    SELECT parent_id, false FROM finished WHERE parent_id IS NOT NULL
    UNION ALL SELECT x.child, true FROM unnest($40::bigint[], $41::bigint[]) AS x(run_id, child) JOIN held ON held.id = x.run_id
    RETURNING 1
), used AS (
    INSERT INTO stepward.blob_use (run_id, key, signal)
    SELECT x.run_id, x.key, false FROM unnest($42::bigint[], $43::text[]) AS x(run_id, key) JOIN held ON held.id = x.run_id
    ON CONFLICT DO NOTHING
), kept AS (
    UPDATE stepward.blob SET loose = false FROM unnest($42::bigint[], $43::text[]) AS x(run_id, key), held
    WHERE held.id = x.run_id AND blob.key = x.key
), seen AS (
    INSERT INTO stepward.shown (run_id, epoch, done, n)
    SELECT x.run_id, held.epoch, x.done, x.n FROM unnest($44::bigint[], $45::int[], $46::int[]) AS x(run_id, done, n) JOIN held ON held.id = x.run_id
    ON CONFLICT (run_id) DO UPDATE SET epoch = excluded.epoch, done = excluded.done, n = excluded.n
        WHERE (shown.epoch, shown.done, shown.n) < (excluded.epoch, excluded.done, excluded.n) -- or this was written before, and its answer was lost
    RETURNING run_id
), appended AS (
    INSERT INTO stepward.entry (run_id, stream, step, attempt, payload, guest)
    SELECT x.run_id, x.stream, x.step, x.attempt, x.payload, nullif(x.guest, 0)
    FROM unnest($47::bigint[], $48::text[], $49::text[], $50::int[], $51::bytea[], $62::int[]) WITH ORDINALITY AS x(run_id, stream, step, attempt, payload, guest, place)
    JOIN held ON held.id = x.run_id
    WHERE x.attempt > 0 OR x.run_id IN (SELECT run_id FROM seen)
    ORDER BY x.place
), progressed AS (
    INSERT INTO stepward.progress (run_id, name, value)
    SELECT x.run_id, x.name, x.value FROM unnest($52::bigint[], $53::text[], $54::bytea[], $55::bool[]) AS x(run_id, name, value, body)
    JOIN held ON held.id = x.run_id
    WHERE NOT x.body OR x.run_id IN (SELECT run_id FROM seen)
    ON CONFLICT (run_id, name) DO UPDATE SET at = excluded.at, value = excluded.value
), tagged AS (
    INSERT INTO stepward.attribute (run_id, name, value)
    SELECT x.run_id, x.name, x.value FROM unnest($56::bigint[], $57::text[], $58::bytea[]) AS x(run_id, name, value)
    JOIN seen ON seen.run_id = x.run_id
    ON CONFLICT (run_id, name) DO UPDATE SET value = excluded.value WHERE attribute.value <> excluded.value
)
SELECT held.id, held.cancel, EXISTS (SELECT FROM notices), (SELECT count(*)::int FROM checkpoint WHERE checkpoint.run_id = held.id),
       CASE WHEN held.id = ANY($59::bigint[]) THEN pg_notify($61::text, held.id::text) IS NULL END
FROM held
UNION ALL
SELECT r.id, false, false, -1, NULL FROM stepward.run r
WHERE (SELECT count(*) FROM held) < cardinality($2::bigint[]) -- or there is nothing to look for
  AND (r.id, r.epoch) IN (SELECT x.id, x.epoch FROM unnest($2::bigint[], $3::int[]) AS x(id, epoch))
  AND r.session = $1 AND r.state = 'live' AND r.id NOT IN (SELECT id FROM held);

-- name: CommitOutcome
-- What a Commit of unknown outcome left behind, for one run.
SELECT r.state::text, coalesce(r.session = $3 AND r.epoch = $4, false),
       (SELECT count(*)::int FROM stepward.step s JOIN unnest($2::int[], $5::int[]) AS x(seq, attempt) ON x.seq = s.seq AND x.attempt = s.attempt
        WHERE s.run_id = r.id AND s.epoch = $4)
FROM stepward.run r WHERE r.id = $1;

-- name: TurnLeave
-- Ends a turn without ending the run. $4 says where to: timer, parked or ready. A run that was
-- canceled meanwhile does not wait, unless its body knows ($10): it goes to ready, so that its body can end, and one whose body
-- cannot go on ends here. One that is parked for what may come back by itself ($11) is tried again, later each time within an
-- hour. One that is to pause is parked, unless that was taken back. Nor does one wait for which something has
-- arrived: who sends it locks the run, either before, and arrived sees it, or afterwards, and finds the run in timer.
WITH locked AS MATERIALIZED (
    SELECT r.id, r.requirement_id, r.parent_id, r.cancel, r.pause FROM stepward.run r
    WHERE r.id = $2 AND r.epoch = $3 AND r.session = $1 AND r.state = 'live'
    FOR NO KEY UPDATE NOWAIT
), held AS MATERIALIZED (
    SELECT id, requirement_id, parent_id, pause,
           CASE WHEN $4 = 'parked' AND $6 = 'paused' THEN CASE WHEN pause AND NOT cancel THEN 'parked' ELSE 'ready' END
                WHEN $4 = 'parked' THEN CASE WHEN cancel THEN 'canceled' ELSE 'parked' END
                WHEN pause AND NOT cancel THEN 'parked'
                WHEN $4 = 'timer' AND (NOT cancel OR $10::bool) AND NOT stepward.arrived(id) THEN 'timer'
                ELSE 'ready' END AS dest
    FROM locked
), freed AS (
    UPDATE stepward.run r SET session = NULL,
        state = CASE WHEN dest = 'canceled' THEN CASE WHEN r.late THEN 'failed' ELSE 'canceled' END::stepward.run_state ELSE r.state END,
        finished_at = CASE WHEN dest = 'canceled' THEN clock_timestamp() END,
        error = CASE WHEN dest = 'canceled' THEN CASE WHEN r.late THEN $9::bytea ELSE $7::bytea END END
    FROM held WHERE r.id = held.id
), timed AS (
    INSERT INTO stepward.timer (run_id, wake_at)
    SELECT id, clock_timestamp() + make_interval(secs => $5::float8) FROM held WHERE dest = 'timer' -- null: no time ends it
), parked AS (
    INSERT INTO stepward.parked (run_id, requirement_id, reason, detail, retry_at)
    SELECT id, requirement_id, CASE WHEN $4 = 'parked' THEN $6::text ELSE 'paused' END, $7::bytea,
           CASE WHEN $11::bool AND NOT pause THEN clock_timestamp() + make_interval(secs => 10 * 2 ^ least(6,
               (SELECT count(*) FROM stepward.event e WHERE e.run_id = held.id AND e.kind = 'run.parked' AND e.at > clock_timestamp() - interval '1 hour'))) END
    FROM held WHERE dest = 'parked'
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor, detail)
    SELECT id, 'run.parked', $8::text, $7::bytea FROM held WHERE dest = 'parked'
), ended AS (
    DELETE FROM stepward.turn USING held WHERE turn.run_id = held.id
), back AS (
    INSERT INTO stepward.ready (requirement_id, run_id) SELECT requirement_id, id FROM held WHERE dest = 'ready'
), waits AS (
    DELETE FROM stepward.wait USING held WHERE wait.run_id = held.id AND held.dest = 'canceled' RETURNING wait.child_id
), notices AS (
    INSERT INTO stepward.notice (run_id, cancel)
    SELECT parent_id, false FROM held WHERE dest = 'canceled' AND parent_id IS NOT NULL
    UNION ALL SELECT child_id, true FROM waits WHERE child_id IS NOT NULL
)
SELECT dest FROM held;

-- name: TurnHeld
-- Whether a run is held in an epoch.
SELECT EXISTS (SELECT FROM stepward.run r WHERE r.id = $1 AND r.epoch = $2 AND r.session = $3);

-- name: TurnLock
-- Before ChildWait and the commit of a step in a transaction, in theirs. Like all of a turn it does not wait, with a connection in
-- its hands, for who has locked the run: it fails with lock_not_available, and is repeated.
SELECT 1 FROM stepward.run r WHERE r.id = $1 FOR NO KEY UPDATE NOWAIT;

-- name: TurnRenew
-- A run begins anew, with $4 as its input and nothing on record. $6 is the blob of that input, if it is large;
-- $7 the record of a run that is paused.
WITH held AS MATERIALIZED (
    SELECT r.id, r.requirement_id, r.pause AND NOT r.cancel AS pause FROM stepward.run r
    WHERE r.id = $2 AND r.epoch = $3 AND r.session = $1 AND r.state = 'live'
    FOR NO KEY UPDATE NOWAIT
), renewed AS (
    UPDATE stepward.run r SET session = NULL, input = $4, -- and other chance, and other idempotency keys
        origin_id = hashint8extended(coalesce(r.origin_id, r.id), r.epoch) & 9223372036854775807
    FROM held WHERE r.id = held.id
), steps AS (
    DELETE FROM stepward.step USING held WHERE step.run_id = held.id RETURNING step.seq
), attempts AS (
    DELETE FROM stepward.attempt USING held WHERE attempt.run_id = held.id
), waits AS (
    DELETE FROM stepward.wait USING held WHERE wait.run_id = held.id
), received AS (
    DELETE FROM stepward.signal USING held WHERE signal.run_id = held.id AND signal.received
), unused AS (
    DELETE FROM stepward.blob_use USING held WHERE blob_use.run_id = held.id AND NOT blob_use.signal RETURNING blob_use.key
), used AS (
    INSERT INTO stepward.blob_use (run_id, key, signal) SELECT id, $6::text, false FROM held WHERE $6 <> ''
), loose AS (
    UPDATE stepward.blob SET loose = blob.key <> $6 FROM held WHERE blob.key = $6 OR blob.key IN (SELECT key FROM unused)
), unshown AS (
    DELETE FROM stepward.shown USING held WHERE shown.run_id = held.id
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor, detail)
    SELECT id, 'run.renewed', $5::text, convert_to(json_build_object('steps', (SELECT count(*) FROM steps))::text, 'UTF8') FROM held
), ended AS (
    DELETE FROM stepward.turn USING held WHERE turn.run_id = held.id
), back AS (
    INSERT INTO stepward.ready (requirement_id, run_id) SELECT requirement_id, id FROM held WHERE NOT pause
), parked AS (
    INSERT INTO stepward.parked (run_id, requirement_id, reason, detail) SELECT id, requirement_id, 'paused', $7 FROM held WHERE pause
)
SELECT CASE WHEN pause THEN 'parked' ELSE 'ready' END FROM held;

-- name: TurnList
SELECT t.run_id, t.epoch, r.cancel, r.pause,
       EXISTS (SELECT FROM stepward.wait w WHERE w.run_id = t.run_id
               AND ((SELECT true FROM stepward.signal s WHERE s.run_id = w.run_id AND s.name = w.signal AND NOT s.received ORDER BY s.id LIMIT 1)
                    OR EXISTS (SELECT FROM stepward.run c WHERE c.id = w.child_id AND c.state <> 'live')))
FROM stepward.turn t JOIN stepward.run r ON r.id = t.run_id
WHERE t.session = $1;

-- name: TurnReap
-- Frees the runs of workers that are gone, $1 at a time. The epoch rises here, so that a late write
-- of the old turn is refused before anybody claims the run again. A run whose last turn recorded
-- nothing counts a crash; one that did starts counting anew. A worker that left (gone) did not crash.
-- A run that somebody has locked, be it for long, is left to the next look.
WITH dead AS MATERIALIZED (
    SELECT t.run_id, t.session, t.epoch, coalesce(w.state, 'dead') AS state FROM stepward.turn t LEFT JOIN stepward.worker w ON w.session = t.session
    WHERE w.session IS NULL OR w.state IN ('dead', 'gone')
    ORDER BY t.run_id
), lost AS MATERIALIZED (
    SELECT r.id, dead.session, dead.epoch, dead.state FROM dead CROSS JOIN LATERAL (
        SELECT id FROM stepward.run
        WHERE run.id = dead.run_id AND run.session = dead.session AND run.epoch = dead.epoch AND run.state = 'live' -- it may just have ended
        FOR NO KEY UPDATE SKIP LOCKED
    ) r LIMIT $1
), raised AS (
    UPDATE stepward.run r SET epoch = r.epoch + 1, session = NULL,
        crashes = CASE WHEN lost.state = 'gone' THEN r.crashes WHEN EXISTS (SELECT FROM stepward.step s WHERE s.run_id = r.id AND s.epoch = lost.epoch) THEN 1 ELSE r.crashes + 1 END
    FROM lost WHERE r.id = lost.id
    RETURNING r.id, r.requirement_id, r.crashes, r.pause AND NOT r.cancel AS pause, lost.session
), noted AS (
    INSERT INTO stepward.event (run_id, kind, actor, detail)
    SELECT id, 'run.recovered', $3::text, convert_to(json_build_object('dead_worker', to_hex(session), 'crashes', crashes)::text, 'UTF8') FROM raised
), stuck AS (
    INSERT INTO stepward.parked (run_id, requirement_id, reason, detail)
    SELECT id, requirement_id, 'crashed', convert_to(json_build_object('message', 'the worker died ' || crashes || ' times while it held this run')::text, 'UTF8')
    FROM raised WHERE crashes >= $2
    UNION ALL SELECT id, requirement_id, 'paused', $4 FROM raised WHERE crashes < $2 AND pause
), ended AS (
    DELETE FROM stepward.turn USING lost WHERE turn.run_id = lost.id
), back AS (
    INSERT INTO stepward.ready (requirement_id, run_id) SELECT requirement_id, id FROM raised WHERE crashes < $2 AND NOT pause
)
SELECT id, crashes FROM raised;
