-- The rights that each role needs. :client, :worker and :broker stand for role names; a line counts if all that it names are given.
-- A client plans and operates: it adds runs, reads everything, ends runs and opens them again. It writes no checkpoint and no output.
GRANT USAGE ON SCHEMA stepward, stepward_river TO :client;
GRANT SELECT ON ALL TABLES IN SCHEMA stepward, stepward_river TO :client;
REVOKE SELECT ON stepward.sandbox FROM :client;
GRANT SELECT (id, run_id, session, backend, created_at, destroyed_at) ON stepward.sandbox TO :client; -- who has a handle may have the sandbox
REVOKE SELECT ON stepward.issue FROM :client;
GRANT SELECT (id, run_id, seq, attempt, step, sandbox_id, level, revocation, pins, issued_at, opened_at, closed_at, tried_at, lease_state, lease_tries, lease_error) ON stepward.issue TO :client;
GRANT USAGE ON SEQUENCE stepward.id_counter TO :client;
GRANT INSERT ON stepward.run, stepward.idempotency, stepward.deadline, stepward.ready, stepward.requirement, stepward.event, stepward.signal, stepward.notice, stepward.parked, stepward.attribute, stepward.blob, stepward.blob_use, stepward.run_limit TO :client;
GRANT UPDATE (cancel, late, pause, state, finished_at, error, epoch, session, crashes, version, requirement_id) ON stepward.run TO :client;
GRANT UPDATE (done, n) ON stepward.shown TO :client; -- of a run that is retried
GRANT UPDATE (received) ON stepward.signal TO :client; -- of a run that is retried
GRANT UPDATE (loose) ON stepward.blob TO :client;
GRANT UPDATE (requirement_id, retry_at) ON stepward.parked TO :client;
GRANT UPDATE (concurrency, rate, per_s, tokens) ON stepward.run_limit TO :client;
GRANT DELETE ON stepward.ready, stepward.timer, stepward.parked, stepward.turn, stepward.wait TO :client;
GRANT DELETE ON stepward.step, stepward.deadline TO :client; -- failures of a run that is retried, and until when it had to end
GRANT INSERT, UPDATE (elapsed, error, forgiven), DELETE ON stepward.attempt TO :client; -- where they are kept
GRANT INSERT, UPDATE, DELETE ON stepward.schedule TO :client; -- it makes, pauses and triggers them; workers tick
GRANT INSERT, UPDATE, DELETE ON stepward.profile TO :client; -- what holds no secret
GRANT INSERT ON stepward.policy TO :client;
GRANT INSERT, UPDATE ON stepward.identity_epoch TO :client;
GRANT INSERT (run_id, body) ON stepward.binding TO :client; -- what is pinned, a fork writes
GRANT INSERT ON stepward.revocation TO :client; -- and takes none back
GRANT EXECUTE ON FUNCTION stepward.fork TO :client;
GRANT INSERT ON stepward_river.river_job TO :client;
GRANT UPDATE (kind) ON stepward_river.river_job TO :client; -- ON CONFLICT of a unique job
GRANT USAGE ON ALL SEQUENCES IN SCHEMA stepward_river TO :client;
-- A worker executes: it writes every table, and owns none.
GRANT USAGE ON SCHEMA stepward, stepward_river TO :worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA stepward, stepward_river TO :worker;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA stepward, stepward_river TO :worker;
REVOKE INSERT, UPDATE, DELETE ON stepward.migration FROM :worker;
REVOKE UPDATE, DELETE ON stepward.event, stepward.claim FROM :worker; -- a record is written once
REVOKE INSERT, UPDATE, DELETE ON stepward.binding FROM :worker;
GRANT INSERT (run_id, body) ON stepward.binding TO :worker;
REVOKE INSERT, UPDATE, DELETE ON stepward.profile, stepward.policy, stepward.identity_epoch, stepward.revocation FROM :worker; -- it gives itself nothing
REVOKE UPDATE ON stepward.step FROM :worker; -- and so are steps, which go when a run begins anew
GRANT EXECUTE ON FUNCTION stepward.expire_runs TO :worker; -- it deletes runs that ended, with their records, and leaves an event
GRANT EXECUTE ON FUNCTION stepward.put_issue TO :worker; -- of which the broker is a child
REVOKE INSERT, UPDATE, DELETE ON stepward.issue FROM :worker; GRANT SELECT ON stepward.issue TO :broker; -- which alone writes that record, if it has a role
REVOKE EXECUTE ON FUNCTION stepward.put_issue FROM :worker; GRANT EXECUTE ON FUNCTION stepward.put_issue TO :broker;
-- A broker of its own reads what its answers depend on, and records them.
GRANT USAGE ON SCHEMA stepward TO :broker;
GRANT SELECT ON stepward.migration, stepward.definition, stepward.issue, stepward.binding, stepward.profile, stepward.policy, stepward.identity_epoch, stepward.revocation TO :broker;
GRANT SELECT (id, parent_id, tenant, workflow, version, epoch, session, state) ON stepward.run TO :broker;
GRANT SELECT (run_id, seq, attempt, epoch, started_at, key, mode, sandbox_id, error) ON stepward.attempt TO :broker;
GRANT SELECT (run_id, epoch, session, at) ON stepward.claim TO :broker;
GRANT SELECT (run_id, seq) ON stepward.step TO :broker;
GRANT SELECT (session, name) ON stepward.worker TO :broker;
GRANT SELECT (id, run_id) ON stepward.sandbox TO :broker;
GRANT UPDATE (opened_at, closed_at, leases, tried_at, lease_state, lease_tries, lease_error) ON stepward.issue TO :broker;
GRANT INSERT ON stepward.event TO :broker;
GRANT EXECUTE ON FUNCTION stepward.put_issue TO :broker;
