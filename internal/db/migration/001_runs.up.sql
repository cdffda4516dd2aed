-- Runs, their steps, and what holds or delays them.
--
-- Being claimable is a row in ready, being held is a row in turn, waiting is a
-- row in timer or parked. No index and no predicate names a column of run that
-- a turn changes, so that those updates stay heap-only.

-- An id is its creation time in milliseconds, shifted by 20 bits, and a counter.
CREATE SEQUENCE stepward.id_counter AS int MINVALUE 0 MAXVALUE 1048575 CYCLE;

CREATE FUNCTION stepward.next_id() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT ((extract(epoch FROM clock_timestamp()) * 1000)::bigint << 20) | nextval('stepward.id_counter')
$$;

-- What a worker must offer to hold a run: one row per distinct need.
CREATE TABLE stepward.requirement (
    id       int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash     bytea NOT NULL UNIQUE, -- SHA-256 of the canonical form of the other columns
    workflow text NOT NULL,
    version  text NOT NULL,         -- empty while no worker has defined the workflow
    modes    text[] NOT NULL        -- every mode that a step names, sorted
);

CREATE TABLE stepward.definition (
    workflow       text NOT NULL,
    version        text NOT NULL,
    requirement_id int NOT NULL,
    steps          bytea NOT NULL, -- JSON: name, mode and needs of each step
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (workflow, version)
);

CREATE TYPE stepward.run_state AS ENUM ('live', 'completed', 'failed', 'canceled');

CREATE TABLE stepward.run (
    id             bigint PRIMARY KEY,
    tenant         text NOT NULL,
    workflow       text NOT NULL,
    traceparent    text,
    parent_id      bigint,  -- run whose body waits for this one
    origin_id      bigint,  -- of a fork: the run that the chance of both comes from; of a run that has begun anew: a number
    priority       smallint, -- null: 0
    tick           timestamptz, -- of the schedule that enqueued it
    limit_key      text,
    -- from here on, what a turn changes
    input          bytea NOT NULL,
    version        text NOT NULL,
    requirement_id int NOT NULL,
    epoch          int NOT NULL DEFAULT 0,
    session        bigint,
    crashes        smallint NOT NULL DEFAULT 0,
    cancel         boolean NOT NULL DEFAULT false,
    pause          boolean NOT NULL DEFAULT false, -- it is parked, or will be by the turn that holds it
    late           boolean NOT NULL DEFAULT false, -- its deadline has passed, and that is why it is canceled
    state          stepward.run_state NOT NULL DEFAULT 'live',
    finished_at    timestamptz,
    output         bytea,
    error          bytea
) WITH (fillfactor = 60);

CREATE INDEX run_tenant ON stepward.run (tenant, id);
CREATE INDEX run_limit_key ON stepward.run (limit_key) WHERE limit_key IS NOT NULL;

CREATE TABLE stepward.idempotency (
    tenant     text NOT NULL,
    key        text NOT NULL,
    run_id     bigint NOT NULL,
    input_hash bytea NOT NULL,
    PRIMARY KEY (tenant, key)
);

CREATE INDEX idempotency_run ON stepward.idempotency (run_id);

-- Until when a run has to end, if it was enqueued so. A row goes when its time has
-- come, whatever has become of the run.
CREATE TABLE stepward.deadline (
    run_id bigint PRIMARY KEY,
    at     timestamptz NOT NULL
);

CREATE INDEX deadline_due ON stepward.deadline (at);

-- Where a run stands among those of its tenant: its id is its age, and a step of
-- priority is worth a minute of it.
CREATE FUNCTION stepward.rank(id bigint, priority smallint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT id - coalesce(priority, 0)::bigint * (60000::bigint << 20)
$$;

-- What a run has to pass before it is claimed: its limit, if any. One that has
-- begun needs no token any more, and stands apart.
CREATE FUNCTION stepward.gate(limit_key text, epoch int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(CASE WHEN epoch > 0 THEN limit_key || E'\x01' ELSE limit_key END, '')
$$;

-- A run that may be claimed. It stands in the lane of its limit and tenant, and
-- its place follows from its row in run, where whoever looks for one run takes
-- it from.
CREATE TABLE stepward.ready (
    rank           bigint NOT NULL,
    run_id         bigint NOT NULL,
    since          timestamptz NOT NULL DEFAULT clock_timestamp(),
    requirement_id int NOT NULL,
    gate           text COLLATE "C" NOT NULL,
    tenant         text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX ready_lane ON stepward.ready (requirement_id, gate, tenant, rank);

-- However a run comes back, it comes back to its place.
CREATE FUNCTION stepward.ready_place() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT stepward.gate(r.limit_key, r.epoch), r.tenant, stepward.rank(r.id, r.priority) INTO NEW.gate, NEW.tenant, NEW.rank FROM stepward.run r WHERE r.id = NEW.run_id;
    RETURN NEW;
END $$;

CREATE TRIGGER ready_place BEFORE INSERT ON stepward.ready FOR EACH ROW WHEN (NEW.rank IS NULL) EXECUTE FUNCTION stepward.ready_place();

-- Of a run whose limit counts how many are executed, limit_key and slot: no two
-- have the same, so that no mistake of a claim exceeds the limit, and what ends
-- the turn frees the slot.
CREATE TABLE stepward.turn (
    run_id    bigint PRIMARY KEY,
    session   bigint NOT NULL,
    epoch     int NOT NULL,
    slot      int,
    limit_key text COLLATE "C",
    CHECK ((slot IS NULL) = (limit_key IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE UNIQUE INDEX turn_slot ON stepward.turn (limit_key, slot) WHERE limit_key IS NOT NULL;

-- A limit that runs share: how many may be executed at once, and how many may
-- begin per time. 0: any number. Claims change it; enqueues, when the numbers are
-- new.
CREATE TABLE stepward.run_limit (
    key         text COLLATE "C" PRIMARY KEY,
    concurrency int NOT NULL,
    rate        int NOT NULL,
    per_s       float8 NOT NULL,
    tokens      float8 NOT NULL, -- at the time filled_at
    filled_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    served      text COLLATE "C" NOT NULL DEFAULT '' -- the tenant of the last run that was claimed
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- A run that waits: for a time, or, without one, for what wait says.
CREATE TABLE stepward.timer (
    run_id  bigint PRIMARY KEY,
    wake_at timestamptz
);

CREATE INDEX timer_due ON stepward.timer (wake_at);

-- What the body of a live run waits for, other than its steps.
CREATE TABLE stepward.wait (
    run_id   bigint NOT NULL,
    seq      int NOT NULL,
    child_id bigint, -- negative: of a run that was started and is on its own, so that no turn starts it again
    wake_at  timestamptz,
    since    timestamptz NOT NULL DEFAULT clock_timestamp(),
    key      text NOT NULL,
    signal   text,
    PRIMARY KEY (run_id, seq)
);

-- What was sent to a run. A value that its body has received stays until the
-- run begins anew. The key leads to those of one name, however many others there are.
CREATE TABLE stepward.signal (
    run_id   bigint NOT NULL,
    id       bigint GENERATED ALWAYS AS IDENTITY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    received boolean NOT NULL DEFAULT false,
    name     text NOT NULL,
    payload  bytea NOT NULL,
    PRIMARY KEY (run_id, name, id)
) WITH (fillfactor = 90);

-- Whether something has arrived that a run waits for. It is volatile: so it sees
-- what was committed between the snapshot of the statement that calls it and that
-- statement's lock on the run.
CREATE FUNCTION stepward.arrived(run bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM stepward.wait w CROSS JOIN LATERAL ( -- the order has it probe the key, whatever the statistics say
            SELECT FROM stepward.signal s WHERE s.run_id = w.run_id AND s.name = w.signal AND NOT s.received ORDER BY s.id LIMIT 1) s WHERE w.run_id = run)
        OR EXISTS (SELECT FROM stepward.wait w JOIN stepward.run c ON c.id = w.child_id WHERE w.run_id = run AND c.state <> 'live');
END $$;

-- What a commit leaves to be done to another run, as it must not lock it: to
-- wake a parent, or to cancel or terminate a child.
CREATE TABLE stepward.notice (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id bigint NOT NULL,
    cancel boolean NOT NULL,
    terminate boolean NOT NULL DEFAULT false
);

CREATE TABLE stepward.parked (
    run_id         bigint PRIMARY KEY,
    requirement_id int NOT NULL,
    reason         text NOT NULL,
    detail         bytea NOT NULL,
    since          timestamptz NOT NULL DEFAULT clock_timestamp(),
    retry_at       timestamptz -- when any worker tries it again; null: none does by itself
);

CREATE INDEX parked_retry ON stepward.parked (retry_at) WHERE retry_at IS NOT NULL;
CREATE INDEX parked_requirement ON stepward.parked (requirement_id, reason);

-- The record of a claim.
CREATE TABLE stepward.claim (
    run_id  bigint NOT NULL,
    epoch   int NOT NULL,
    session bigint NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, epoch)
);

-- A checkpoint: the recorded result of a step, written once. Its size counts most
-- of all: what is missing is empty, not null, as a bitmap of nulls takes eight
-- bytes, and mode is a number of one byte.
CREATE TABLE stepward.step (
    run_id     bigint NOT NULL,
    started_at timestamptz NOT NULL,
    input_hash bigint NOT NULL,
    seq        int NOT NULL, -- program order at issue, from 1; 0 is the cancelation of the run
    epoch      int NOT NULL, -- 0: taken over from the run that this one is a fork of
    done       int NOT NULL, -- order in which the body got to know the results, from 1
    elapsed    real NOT NULL, -- seconds, of the attempt that is recorded
    attempt    int NOT NULL,
    mode       "char" NOT NULL,
    key        text NOT NULL, -- name and occurrence: build, build#2, page[3]
    output     bytea NOT NULL DEFAULT '', -- of a failure, a time limit and the cancelation: how many calls the body had made when it got to know
    error      bytea NOT NULL DEFAULT '',
    PRIMARY KEY (run_id, seq)
);

-- What a run shows outward while it lives. Its body's calls leave no checkpoint:
-- shown says up to which one they are on record, as the nth since a result.
CREATE TABLE stepward.shown (
    run_id bigint PRIMARY KEY,
    epoch  int NOT NULL,
    done   int NOT NULL, -- place of that result, as in step
    n      int NOT NULL
) WITH (fillfactor = 50);

-- A named value, the latest.
CREATE TABLE stepward.progress (
    run_id bigint NOT NULL,
    at     timestamptz NOT NULL DEFAULT statement_timestamp(),
    name   text NOT NULL,
    value  bytea NOT NULL,
    PRIMARY KEY (run_id, name)
) WITH (fillfactor = 50);

-- A value that was appended to a stream. Who appends holds the run's row, so that
-- the order of ids is the order in which readers see them.
CREATE TABLE stepward.entry (
    run_id  bigint NOT NULL,
    id      bigint GENERATED ALWAYS AS IDENTITY,
    at      timestamptz NOT NULL DEFAULT statement_timestamp(),
    attempt int NOT NULL, -- of the step that appended it; 0: the body
    stream  text NOT NULL,
    step    text NOT NULL,
    payload bytea NOT NULL,
    guest   int, -- number that the function gave it, if that runs in a sandbox: it may come again
    PRIMARY KEY (run_id, stream, id)
);

-- A tag to find a run by. The first byte of the value says its type (b, f, i, s, t);
-- the order of the bytes is that of the values.
CREATE TABLE stepward.attribute (
    run_id bigint NOT NULL,
    name   text NOT NULL,
    value  bytea NOT NULL,
    PRIMARY KEY (run_id, name)
);

CREATE INDEX attribute_value ON stepward.attribute (name, value, run_id);

-- An attempt that failed, that was dispatched into a sandbox, or that has reported.
CREATE TABLE stepward.attempt (
    run_id     bigint NOT NULL,
    started_at timestamptz NOT NULL,
    seq        int NOT NULL,
    epoch      int NOT NULL,
    elapsed    real, -- seconds; null until it ended
    attempt    int NOT NULL,
    mode       smallint NOT NULL,
    key        text NOT NULL,
    sandbox_id text,
    error      bytea,
    retry_at   timestamptz,
    forgiven   boolean, -- it does not count: the step was retried by an operator, or the attempt was lost with its worker
    beat_at    timestamptz,
    details    bytea, -- what it said then
    PRIMARY KEY (run_id, seq, attempt)
);

CREATE TABLE stepward.sandbox (
    id           text PRIMARY KEY,
    run_id       bigint, -- null while it is kept ready for any
    session      bigint NOT NULL,
    backend      text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    destroyed_at timestamptz,
    handle       bytea -- what another worker needs to go on with it; null: none can, or it is not made yet
);

CREATE INDEX sandbox_live ON stepward.sandbox (session) WHERE destroyed_at IS NULL;

-- A large value, or the note of one that the application's store has.
CREATE TABLE stepward.blob (
    key   text PRIMARY KEY,
    at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    loose boolean NOT NULL DEFAULT true, -- nothing refers to it, yet or any more
    data  bytea -- null: the application's store has it
);

CREATE INDEX blob_loose ON stepward.blob (at) WHERE loose;

-- Which runs refer to a blob. What would refer to one that was swept is refused.
CREATE TABLE stepward.blob_use (
    run_id bigint NOT NULL,
    signal boolean NOT NULL, -- it is a signal's, which stays when the run begins anew
    key    text NOT NULL CONSTRAINT blob_is_there REFERENCES stepward.blob,
    PRIMARY KEY (run_id, key)
);

CREATE INDEX blob_use_key ON stepward.blob_use (key);

CREATE TABLE stepward.worker (
    session     bigint PRIMARY KEY, -- random, new at each start of a worker
    name        text NOT NULL,
    state       text NOT NULL DEFAULT 'live', -- live, draining, gone, dead
    lease_until timestamptz NOT NULL,
    lease_s     real NOT NULL, -- how long a lease lasts
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    requirements int[] NOT NULL,
    unmet       int[] NOT NULL DEFAULT '{}', -- of what it lists and cannot execute
    lacks       jsonb NOT NULL DEFAULT '{}', -- what its broker could not do that another one's may, and until when that counts
    passes      jsonb NOT NULL DEFAULT '{}', -- which runs it leaves to others for want of that, by what they were bound to: what it lacks, and until when
    max_runs    int NOT NULL DEFAULT 1, -- that it holds at a time
    backends    text[] NOT NULL
) WITH (fillfactor = 50);

CREATE INDEX worker_live ON stepward.worker (session) WHERE state = 'live'; -- among those that are long gone

-- What enqueues runs at its times. Workers compute the ticks, as Postgres knows no cron.
CREATE TABLE stepward.schedule (
    name        text PRIMARY KEY,
    tenant      text NOT NULL,
    workflow    text NOT NULL,
    input       bytea NOT NULL,
    spec        text NOT NULL, -- JSON: when, and what if a run goes on
    runs        jsonb NOT NULL, -- their priority, attributes, timeout and limit
    tick_at     timestamptz,   -- the next tick; null: there is none
    due_at      timestamptz,   -- when it is enqueued, which jitter makes later; null: never, or paused
    buffered_at timestamptz,   -- a tick that waits until the runs of live have ended
    live        bigint[] NOT NULL DEFAULT '{}', -- runs that later ticks must not overlap; they may have ended
    paused      boolean NOT NULL DEFAULT false,
    last_tick   timestamptz,
    last_run    bigint,
    skipped     bigint NOT NULL DEFAULT 0,
    missed      bigint NOT NULL DEFAULT 0,
    problem     text -- why nothing is enqueued although it is due
) WITH (fillfactor = 70);

CREATE INDEX schedule_due ON stepward.schedule (due_at);
CREATE INDEX schedule_buffered ON stepward.schedule (name) WHERE buffered_at IS NOT NULL;

CREATE TABLE stepward.event (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id bigint NOT NULL,
    kind   text NOT NULL,
    actor  text NOT NULL,
    step   text,
    detail bytea, -- JSON
    tenant text   -- of what belongs to no run; else null: the run has it
);

CREATE INDEX event_run ON stepward.event (run_id, id);

-- What a broker has sealed for an attempt: on record before it left. Names, versions and fingerprints, never a value.
CREATE TABLE stepward.issue (
    id         bytea PRIMARY KEY, -- of the envelope
    run_id     bigint NOT NULL,
    seq        int NOT NULL,
    attempt    int NOT NULL,
    step       text NOT NULL,
    sandbox_id text NOT NULL,
    level      text NOT NULL, -- how far the worker could be trusted with it
    why        text NOT NULL DEFAULT '', -- it is no more
    revocation bigint NOT NULL, -- the tenant's epoch of revocations
    pins       jsonb NOT NULL,
    renewal    bytea NOT NULL, -- a digest of the pins and whose they are, and the key of its renewals, sealed under the broker's own
    leases     bytea,          -- sealed so, too; null: there are none, or nothing is left to ask for: see lease_state
    issued_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    opened_at  timestamptz, -- null: the runner has not said so
    closed_at  timestamptz,
    tried_at   timestamptz, -- when the end of its leases had its turn last
    lease_state text,       -- null: it has none. held: nobody was asked for their end; pending: asked in vain, for one at least; revoked:
                            -- all have ended; unsupported: so, but those that their store cannot end, which run out
    lease_tries int NOT NULL DEFAULT 0, -- how often stores were asked
    lease_error text NOT NULL DEFAULT '' -- what they said last, if it was no
);

CREATE INDEX issue_run ON stepward.issue (run_id, seq, attempt);
CREATE INDEX issue_live ON stepward.issue (issued_at) WHERE closed_at IS NULL;
CREATE INDEX issue_leases ON stepward.issue (tried_at NULLS FIRST) WHERE leases IS NOT NULL;

-- Names for a customer's secrets, and what they refer to. No value is in here. Empty columns of a
-- scope are any.
CREATE TABLE stepward.profile (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant      text NOT NULL, -- empty: of the deployment
    name        text NOT NULL,
    project     text NOT NULL,
    environment text NOT NULL,
    workflow    text NOT NULL,
    step        text NOT NULL,
    generation  bigint NOT NULL DEFAULT 1,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor       text NOT NULL,
    keys        jsonb NOT NULL,
    policy      bytea, -- null: none
    UNIQUE (tenant, name)
);

-- The policies that profiles have, or have had: runs are bound to them by their digest. None is ever changed.
CREATE TABLE stepward.policy (
    digest bytea PRIMARY KEY,
    body   text NOT NULL
);

-- How often what is revoked for a tenant has changed.
CREATE TABLE stepward.identity_epoch (
    tenant text PRIMARY KEY, -- empty: for every tenant
    epoch  bigint NOT NULL
);

-- What was revoked, or, with state 0, that a version of a key is current from then on. A row stays
-- as it is: what is revoked is not given back.
CREATE TABLE stepward.revocation (
    tenant  text NOT NULL,
    epoch   bigint NOT NULL,
    kind    text NOT NULL, -- key, version, profile, tenant, workflow, run, worker
    target  text NOT NULL, -- name of a key, id of a profile or of a run, name or session of a worker
    version text NOT NULL, -- of a key
    state   smallint NOT NULL, -- 0 active, 1 deprecated, 2 soft, 3 hard
    drain   boolean NOT NULL, -- runs that were enqueued before may still start
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor   text NOT NULL,
    reason  text NOT NULL,
    PRIMARY KEY (tenant, epoch)
);

-- What a run was bound to when it was enqueued: names and references. What its steps get is never more.
CREATE TABLE stepward.binding (
    run_id bigint PRIMARY KEY,
    body   bytea NOT NULL, -- JSON
    pins   jsonb -- run: that which this one repeats; steps: by key, what that one was given last; null: it repeats none
);

CREATE INDEX revocation_target ON stepward.revocation (tenant, kind, target);
CREATE INDEX revocation_unknown ON stepward.revocation (tenant) WHERE kind NOT IN ('key', 'version', 'profile', 'tenant', 'workflow', 'run', 'worker');

-- Records an envelope that is about to leave, if the attempt is still that worker's (else: false), and nothing was revoked
-- since these epochs of its tenant and of the deployment (else: null). Who revokes waits for it, and it for them, for less
-- than a worker waits for a broker. A function of the owner, as a broker locks these rows, and changes nothing of them.
CREATE FUNCTION stepward.put_issue(run bigint, epoch int, session bigint, seq int, attempt int, sandbox text,
    envelope bytea, level text, revocation bigint, pins jsonb, renewal bytea, leases bytea, who text, tenant_epoch bigint, deployment_epoch bigint, why text) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s' AS $$
    -- There must be rows to wait for.
    INSERT INTO stepward.identity_epoch (tenant, epoch)
    SELECT x.tenant, 0 FROM (SELECT '' AS tenant UNION SELECT r.tenant FROM stepward.run r WHERE r.id = $1) x ORDER BY x.tenant
    ON CONFLICT DO NOTHING;
    WITH held AS MATERIALIZED (
        SELECT r.id, r.tenant FROM stepward.run r WHERE r.id = $1 AND r.epoch = $2 AND r.session = $3 AND r.state = 'live' FOR NO KEY UPDATE
    ), ours AS MATERIALIZED (
        SELECT a.key FROM stepward.attempt a JOIN held ON held.id = a.run_id
        WHERE a.seq = $4 AND a.attempt = $5 AND a.epoch = $2 AND a.sandbox_id = $6 AND a.error IS NULL
          AND NOT EXISTS (SELECT FROM stepward.step s WHERE s.run_id = a.run_id AND s.seq = a.seq)
    ), revoked AS MATERIALIZED (
        SELECT e.tenant, e.epoch FROM stepward.identity_epoch e JOIN held ON e.tenant IN ('', held.tenant)
        ORDER BY e.tenant FOR SHARE OF e
    ), going AS MATERIALIZED (
        SELECT key FROM ours WHERE NOT EXISTS (SELECT FROM revoked v WHERE v.epoch > CASE v.tenant WHEN '' THEN $15 ELSE $14 END)
    ), kept AS (
        INSERT INTO stepward.issue (id, run_id, seq, attempt, step, sandbox_id, level, why, revocation, pins, renewal, leases, lease_state)
        SELECT $7, $1, $4, $5, key, $6, $8, $16, $9, $10, $11, $12, CASE WHEN $12 IS NOT NULL THEN 'held' END FROM going
    ), noted AS (
        INSERT INTO stepward.event (run_id, kind, actor, step, detail)
        SELECT $1, 'envelope.issued', $13, key,
               convert_to(json_build_object('envelope', encode($7, 'hex'), 'sandbox', $6, 'attempt', $5, 'level', $8, 'why', $16, 'secrets', $10)::text, 'UTF8') FROM going
    )
    SELECT CASE WHEN EXISTS (SELECT FROM going) THEN true WHEN NOT EXISTS (SELECT FROM ours) THEN false END
$$;
REVOKE EXECUTE ON FUNCTION stepward.put_issue FROM PUBLIC;

-- Makes a run that this transaction has added the fork of another one: with its chance, with the results
-- of what it had called before a place in program order, and with the signals that those received; with
-- the others, if it shall have them. A function of the owner, as nobody else may write results that no
-- worker has recorded. Not taken over is a time limit that passed when the body had made the call at that place
-- (it would end that call at once), nor the cancelation of the run, unless what is there was called after
-- it. One that shall reproduce the other has on record which versions of secrets that was given. Returns how many
-- results were taken over.
CREATE FUNCTION stepward.fork(source bigint, target bigint, place int, others boolean, reproduce boolean) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n int;
BEGIN
    UPDATE stepward.run t SET origin_id = coalesce(s.origin_id, s.id) FROM stepward.run s
    WHERE t.id = target AND s.id = source AND t.xmin = pg_current_xact_id()::xid
      AND (t.tenant, t.workflow, t.input) = (s.tenant, s.workflow, s.input);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'run % is no new run with the input of %', target, source;
    END IF;
    INSERT INTO stepward.step (run_id, started_at, input_hash, seq, epoch, done, elapsed, attempt, mode, key, output, error)
    SELECT target, s.started_at, s.input_hash, s.seq, 0, s.done, s.elapsed, s.attempt, s.mode, s.key, s.output, s.error
    FROM stepward.step s
    WHERE s.run_id = source AND s.seq < place
      AND CASE WHEN s.seq = 0 THEN EXISTS (SELECT FROM stepward.step l WHERE l.run_id = source AND l.seq BETWEEN 1 AND place AND l.done > s.done)
               WHEN s.attempt = 0 AND s.key ~ '(^|/)timeout:(#[0-9]+)?$' THEN convert_from(s.output, 'UTF8')::int < place
               ELSE true END;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n > 0 THEN -- it has something on record: so it has begun, and stands apart if it has a limit
        DELETE FROM stepward.ready q USING stepward.run r
        WHERE r.id = target AND r.limit_key IS NOT NULL AND (q.requirement_id, q.gate, q.tenant, q.rank, q.run_id)
            = (r.requirement_id, stepward.gate(r.limit_key, r.epoch), r.tenant, stepward.rank(r.id, r.priority), r.id);
        UPDATE stepward.run SET epoch = 1 WHERE id = target;
        INSERT INTO stepward.ready (requirement_id, run_id) SELECT r.requirement_id, r.id FROM stepward.run r WHERE r.id = target AND r.limit_key IS NOT NULL;
    END IF;
    IF reproduce THEN -- of a step that has not executed there again, what it was to repeat itself
        INSERT INTO stepward.binding AS b (run_id, body, pins)
        SELECT target, '{}', jsonb_build_object('run', source,
                   'steps', coalesce((SELECT x.pins -> 'steps' FROM stepward.binding x WHERE x.run_id = source), '{}')
                         || coalesce((SELECT jsonb_object_agg(i.step, i.pins) FROM (
                                          SELECT DISTINCT ON (i.step) i.step, i.pins FROM stepward.issue i WHERE i.run_id = source
                                             AND (EXISTS (SELECT FROM stepward.attempt a WHERE (a.run_id, a.seq, a.key) = (i.run_id, i.seq, i.step))
                                                  OR EXISTS (SELECT FROM stepward.step s WHERE (s.run_id, s.seq, s.key) = (i.run_id, i.seq, i.step)))
                                          ORDER BY i.step, i.issued_at DESC) i), '{}'))
        ON CONFLICT (run_id) DO UPDATE SET pins = excluded.pins;
    END IF;
    INSERT INTO stepward.attribute (run_id, name, value) SELECT target, name, value FROM stepward.attribute WHERE run_id = source;
    -- Large values are shared. It may be more than is referred to.
    INSERT INTO stepward.blob_use (run_id, signal, key) SELECT target, signal, key FROM stepward.blob_use WHERE run_id = source ON CONFLICT DO NOTHING;
    -- Of each name, what was received last belongs to the call that received last.
    INSERT INTO stepward.signal (run_id, at, received, name, payload)
    SELECT target, g.at, g.received AND coalesce(c.seq < place, false), g.name, g.payload
    FROM (SELECT *, row_number() OVER (PARTITION BY name, received ORDER BY id DESC) AS n FROM stepward.signal WHERE run_id = source) g
    LEFT JOIN (
        SELECT seq, name, row_number() OVER (PARTITION BY name ORDER BY done DESC) AS n
        FROM (SELECT seq, done, (regexp_match(key, '(?:^|/)signal:([^#:]+)(?:#[0-9]+)?$'))[1] AS name
              FROM stepward.step WHERE run_id = source AND attempt = 0 AND error = '') k
        WHERE name IS NOT NULL
    ) c ON g.received AND c.name = g.name AND c.n = g.n
    WHERE c.seq < place OR others AND (NOT g.received OR c.seq >= place)
    ORDER BY g.id;
    RETURN n;
END $$;
REVOKE EXECUTE ON FUNCTION stepward.fork FROM PUBLIC;

-- Every record in one shape, wherever it is kept.
CREATE VIEW stepward.audit_event AS
    SELECT at, run_id, kind, actor, step, detail, tenant FROM stepward.event
    UNION ALL
    SELECT timestamptz 'epoch' + (id >> 20) * interval '1 ms', id, 'run.enqueued', 'client', NULL, NULL, NULL FROM stepward.run
    UNION ALL
    SELECT finished_at, id, 'run.' || state, coalesce('worker:' || to_hex(session), (
               SELECT e.actor FROM stepward.event e WHERE e.run_id = run.id AND e.kind IN ('run.cancel', 'run.terminate') ORDER BY e.id DESC LIMIT 1), 'worker'), NULL, error, NULL
    FROM stepward.run WHERE state <> 'live' AND finished_at IS NOT NULL
    UNION ALL
    SELECT at, run_id, 'run.claimed', 'worker:' || to_hex(session), NULL,
           convert_to(json_build_object('epoch', epoch)::text, 'UTF8'), NULL
    FROM stepward.claim
    UNION ALL
    SELECT started_at + make_interval(secs => elapsed), run_id,
           CASE WHEN epoch = 0 THEN 'step.copied' WHEN error = '' THEN 'step.completed' ELSE 'step.failed' END, 'worker', key,
           convert_to(json_build_object('seq', seq, 'attempt', attempt, 'epoch', epoch, 'mode', mode::int, 'elapsed_s', elapsed)::text, 'UTF8'), NULL
    FROM stepward.step
    UNION ALL
    SELECT started_at + make_interval(secs => elapsed), run_id, 'attempt.failed', 'worker', key, error, NULL
    FROM stepward.attempt WHERE error IS NOT NULL;

-- Deletes, of the next runs after an id, those that ended so many seconds ago, with all that is on
-- record of them; null keeps them for ever. It leaves an event, which is all that a worker's role can do
-- to events: so the owner's rights are used, and what is deleted has ended. A child stays for as long as its
-- parent may ask for its result, and a run with a sandbox until that is gone. Blobs become loose.
CREATE FUNCTION stepward.expire_runs(after_id bigint, looks int, deletes int, completed float8, failed float8, canceled float8, who text)
RETURNS TABLE (deleted int, last_id bigint) LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH page AS MATERIALIZED (
        SELECT r.id FROM stepward.run r
        WHERE r.id > after_id
          AND r.id < (extract(epoch FROM clock_timestamp() - make_interval(secs => least(completed, failed, canceled))) * 1000)::bigint << 20
        ORDER BY r.id LIMIT looks
    ), due AS MATERIALIZED (
        SELECT r.id FROM stepward.run r JOIN page ON page.id = r.id
        WHERE r.state <> 'live'
          AND r.finished_at < clock_timestamp() - make_interval(secs => CASE r.state WHEN 'completed' THEN completed WHEN 'failed' THEN failed ELSE canceled END)
          AND NOT EXISTS (SELECT FROM stepward.wait w JOIN stepward.run p ON p.id = w.run_id
                          WHERE w.run_id = r.parent_id AND w.child_id = r.id AND p.state = 'live')
          AND NOT EXISTS (SELECT FROM stepward.attempt a JOIN stepward.sandbox b ON b.id = a.sandbox_id
                          WHERE a.run_id = r.id AND b.destroyed_at IS NULL)
          AND NOT EXISTS (SELECT FROM stepward.issue i WHERE i.run_id = r.id AND i.leases IS NOT NULL -- whose end is still asked for
                          AND greatest(i.closed_at, r.finished_at) > clock_timestamp() - interval '7 days')
        ORDER BY r.id LIMIT deletes FOR UPDATE OF r SKIP LOCKED
    ), boxes AS (
        DELETE FROM stepward.sandbox b USING stepward.attempt a, due WHERE a.run_id = due.id AND b.id = a.sandbox_id
    ), attempts AS (
        DELETE FROM stepward.attempt x USING due WHERE x.run_id = due.id
    ), steps AS (
        DELETE FROM stepward.step x USING due WHERE x.run_id = due.id
    ), marks AS (
        DELETE FROM stepward.shown x USING due WHERE x.run_id = due.id
    ), latest AS (
        DELETE FROM stepward.progress x USING due WHERE x.run_id = due.id
    ), entries AS (
        DELETE FROM stepward.entry x USING due WHERE x.run_id = due.id
    ), tags AS (
        DELETE FROM stepward.attribute x USING due WHERE x.run_id = due.id
    ), signals AS (
        DELETE FROM stepward.signal x USING due WHERE x.run_id = due.id
    ), waits AS (
        DELETE FROM stepward.wait x USING due WHERE x.run_id = due.id
    ), claims AS (
        DELETE FROM stepward.claim x USING due WHERE x.run_id = due.id
    ), events AS (
        DELETE FROM stepward.event x USING due WHERE x.run_id = due.id
    ), keys AS (
        DELETE FROM stepward.idempotency x USING due WHERE x.run_id = due.id
    ), deadlines AS (
        DELETE FROM stepward.deadline x USING due WHERE x.run_id = due.id
    ), issued AS (
        DELETE FROM stepward.issue x USING due WHERE x.run_id = due.id
    ), bindings AS (
        DELETE FROM stepward.binding x USING due WHERE x.run_id = due.id
    ), uses AS (
        DELETE FROM stepward.blob_use x USING due WHERE x.run_id = due.id RETURNING x.key
    ), blobs AS (
        UPDATE stepward.blob b SET loose = true WHERE b.key IN (SELECT key FROM uses)
    ), runs AS (
        DELETE FROM stepward.run r USING due WHERE r.id = due.id
    ), noted AS (
        INSERT INTO stepward.event (run_id, kind, actor, detail)
        SELECT 0, 'runs.deleted', who, convert_to(json_build_object('runs', count(*), 'first', min(id), 'last', max(id))::text, 'UTF8')
        FROM due HAVING count(*) > 0
    )
    SELECT (SELECT count(*)::int FROM due),
           CASE WHEN (SELECT count(*) FROM due) = deletes THEN (SELECT max(id) FROM due) ELSE (SELECT max(id) FROM page) END
$$;

REVOKE EXECUTE ON FUNCTION stepward.expire_runs FROM PUBLIC;
