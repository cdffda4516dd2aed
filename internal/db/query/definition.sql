-- name: DefinitionNewest
-- The newest version, or when no live worker lists that, as after a deploy that was taken back, the
-- newest that one can execute. A worker that lists what it cannot meet counts: its runs are parked,
-- and not met by less. The selected parameter: see IdentityApply.
SELECT d.workflow, coalesce(o.version, d.version), q.id, q.modes,
       CASE WHEN q.modes && '{identity,agent,agent_jit}' THEN (
           SELECT s.steps FROM stepward.definition s WHERE s.workflow = d.workflow AND s.version = coalesce(o.version, d.version)) END
FROM unnest((SELECT $1::text[])) AS w(name)
CROSS JOIN LATERAL (
    SELECT workflow, version, requirement_id FROM stepward.definition
    WHERE workflow = w.name ORDER BY created_at DESC, version DESC LIMIT 1
) d
LEFT JOIN LATERAL (
    SELECT version, requirement_id FROM stepward.definition
    WHERE workflow = w.name AND version <> d.version
      AND NOT EXISTS (SELECT FROM stepward.worker k WHERE k.state = 'live' AND k.lease_until > now()
                      AND (d.requirement_id = ANY(k.requirements) OR d.requirement_id = ANY(k.unmet)))
      AND requirement_id IN (SELECT unnest(k.requirements) FROM stepward.worker k WHERE k.state = 'live' AND k.lease_until > now())
    ORDER BY created_at DESC, version DESC LIMIT 1
) o ON true
JOIN stepward.requirement q ON q.id = coalesce(o.requirement_id, d.requirement_id);

-- name: DefinitionGet
SELECT requirement_id FROM stepward.definition WHERE workflow = $1 AND version = $2;

-- name: DefinitionSteps
-- Of a version with steps that have secrets; no row: it has none.
SELECT d.steps FROM stepward.definition d JOIN stepward.requirement q ON q.id = d.requirement_id
WHERE d.workflow = $1 AND d.version = $2 AND q.modes && '{identity,agent,agent_jit}';

-- name: DefinitionInsert
-- $5 orders the definitions of one transaction by age, in whatever order they are written.
INSERT INTO stepward.definition (workflow, version, requirement_id, steps, created_at)
VALUES ($1, $2, $3, $4, now() + $5::int * interval '1 microsecond')
ON CONFLICT (workflow, version) DO UPDATE SET requirement_id = excluded.requirement_id, steps = excluded.steps
WHERE definition.requirement_id <> excluded.requirement_id OR definition.steps <> excluded.steps;

-- name: RequirementGet
SELECT id FROM stepward.requirement WHERE hash = $1;

-- name: RequirementInsert
INSERT INTO stepward.requirement (hash, workflow, version, modes) VALUES ($1, $2, $3, $4)
ON CONFLICT (hash) DO NOTHING;

-- name: RequirementsOf
-- Every need that was ever written down for a workflow and version.
SELECT id FROM stepward.requirement WHERE workflow = $1 AND version = $2;
