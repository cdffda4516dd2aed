-- Deletes every run, its steps, its audit events, every schedule, every profile and what was revoked, and the record of all workers.
DROP VIEW stepward.audit_event;
DROP TABLE stepward.schedule;
DROP TABLE stepward.binding, stepward.profile, stepward.policy, stepward.revocation, stepward.identity_epoch;
DROP TABLE stepward.issue, stepward.event, stepward.worker, stepward.blob_use, stepward.blob, stepward.sandbox, stepward.attempt, stepward.step, stepward.claim,
    stepward.parked, stepward.timer, stepward.wait, stepward.signal, stepward.notice,
    stepward.shown, stepward.progress, stepward.entry, stepward.attribute, stepward.run_limit, stepward.turn, stepward.ready, stepward.idempotency, stepward.deadline, stepward.run,
    stepward.definition, stepward.requirement;
DROP FUNCTION stepward.fork;
DROP FUNCTION stepward.put_issue;
DROP TYPE stepward.run_state;
DROP FUNCTION stepward.expire_runs(bigint, int, int, float8, float8, float8, text);
DROP FUNCTION stepward.next_id(), stepward.ready_place(), stepward.arrived(bigint), stepward.gate(text, int), stepward.rank(bigint, smallint);
DROP SEQUENCE stepward.id_counter;
