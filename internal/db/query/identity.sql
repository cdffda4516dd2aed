-- name: IdentityLock
-- One that changes what is revoked waits for those that enqueue, and they for it: of the deployment for all, of a tenant for those
-- that share its number with it. There are 64, as Postgres has room for some thousand locks.
SELECT pg_advisory_xact_lock(hashtextextended('stepward identity ' || CASE $1::text WHEN '' THEN -1 ELSE hashtextextended($1::text, 0) & 63 END, 0));

-- name: IdentityPatience
SELECT set_config('lock_timeout', '2s', true);

-- name: IdentityHold
-- Who has the row is the only one that changes what is revoked for the tenant.
INSERT INTO stepward.identity_epoch AS e (tenant, epoch) VALUES ($1, 0)
ON CONFLICT (tenant) DO UPDATE SET epoch = e.epoch;

-- name: IdentityEpoch
UPDATE stepward.identity_epoch SET epoch = epoch + 1 WHERE tenant = $1 RETURNING epoch;

-- name: IdentityEvent
INSERT INTO stepward.event (run_id, kind, actor, detail, tenant) VALUES (0, $1, $2, $3, $4);

-- name: ProfileInsert
-- $9 and $10 are the digest and the text of its policy; null: none.
WITH kept AS (
    INSERT INTO stepward.policy (digest, body) SELECT $9::bytea, $10::text WHERE $9::bytea IS NOT NULL ON CONFLICT DO NOTHING
)
INSERT INTO stepward.profile (tenant, name, project, environment, workflow, step, actor, keys, policy)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, name) DO NOTHING;

-- name: ProfileUpdate
-- Policy: as ProfileInsert.
WITH kept AS (
    INSERT INTO stepward.policy (digest, body) SELECT $9::bytea, $10::text WHERE $9::bytea IS NOT NULL ON CONFLICT DO NOTHING
)
UPDATE stepward.profile SET project = $3, environment = $4, workflow = $5, step = $6, actor = $7, keys = $8, policy = $9,
       generation = generation + 1, changed_at = clock_timestamp()
WHERE tenant = $1 AND name = $2 AND generation = $11;

-- name: ProfileDelete
DELETE FROM stepward.profile WHERE tenant = $1 AND name = $2 AND generation = $3 RETURNING id;

-- name: ProfileGet
SELECT id, tenant, name, project, environment, workflow, step, generation, changed_at, actor, keys, policy, coalesce(body, '')
FROM stepward.profile LEFT JOIN stepward.policy ON digest = policy WHERE tenant = $1 AND name = $2;

-- name: ProfileList
SELECT id, tenant, name, project, environment, workflow, step, generation, changed_at, actor, keys, policy, coalesce(body, '')
FROM stepward.profile LEFT JOIN stepward.policy ON digest = policy WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3;

-- name: ProfileLock
-- Of those that change profiles of a tenant, one comes after the other: see ProfileRival.
SELECT pg_advisory_xact_lock(hashtextextended('stepward profile ' || $1::text, 0));

-- name: ProfileRival
-- Another profile of the tenant that names one of the keys $7, and does not deny it, at some place where a profile with this scope does,
-- equally narrowly ($8). There is no other for who has ProfileLock.
SELECT p.id, p.name, p.project, p.environment, p.workflow, p.step, min(k)
FROM stepward.profile p CROSS JOIN unnest($7::text[]) AS k
WHERE p.tenant = $1 AND p.name <> $2
  AND (p.project = $3 OR p.project = '' OR $3 = '')
  AND (p.environment = $4 OR p.environment = '' OR $4 = '')
  AND (p.workflow = $5 OR p.workflow = '' OR $5 = '')
  AND (p.step = $6 OR p.step = '' OR $6 = '')
  AND $8::int = CASE WHEN p.step <> '' THEN 5 WHEN p.workflow <> '' THEN 4 WHEN p.environment <> '' THEN 3 WHEN p.project <> '' THEN 2 WHEN p.tenant <> '' THEN 1 ELSE 0 END
  AND p.keys ? k AND NOT coalesce((p.keys -> k ->> 'deny')::boolean, false)
GROUP BY p.id ORDER BY p.name LIMIT 1;

-- name: PolicyGet
SELECT body FROM stepward.policy WHERE digest = ANY($1::bytea[]);

-- name: RevocationInsert
INSERT INTO stepward.revocation (tenant, epoch, kind, target, version, state, drain, actor, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: RevocationOf
-- Of one target of a tenant, oldest first.
SELECT tenant, epoch, kind, target, version, state, drain, at, actor, reason
FROM stepward.revocation WHERE tenant = $1 AND kind = $2 AND target = $3 ORDER BY epoch;

-- name: RevocationList
SELECT tenant, epoch, kind, target, version, state, drain, at, actor, reason
FROM stepward.revocation WHERE tenant = $1 AND epoch > $2 ORDER BY epoch LIMIT $3;

-- name: IdentityApply
-- Of tenants, and of the deployment: the profiles that may apply in some of these projects, environments and workflows (null: in any);
-- and what is revoked, and the versions that came after, of what somebody asks about: targets ($6) with their kinds ($5), those
-- profiles, and, with $7, any key. However much else was revoked, it is not read: each target is looked for by itself. A kind that is
-- not known here concerns everybody. A tenant has a row for its epoch even if nothing else; those of profiles have keys.
-- A parameter that is selected looks the same for every plan, so that one is kept: it takes longer to make one than to execute it. To
-- execute one takes as long as it has parts, so profiles are read once, and without what only the start of a step needs.
WITH p AS MATERIALIZED (
    SELECT id, tenant, name, project, environment, workflow, step, keys, policy FROM stepward.profile
    WHERE (tenant = '' OR tenant = ANY((SELECT $1::text[])::text[]))
      AND ((SELECT $2::text[]) IS NULL OR project = '' OR project = ANY((SELECT $2::text[])::text[]))
      AND ((SELECT $3::text[]) IS NULL OR environment = '' OR environment = ANY((SELECT $3::text[])::text[]))
      AND ((SELECT $4::text[]) IS NULL OR workflow = '' OR workflow = ANY((SELECT $4::text[])::text[]))
)
SELECT e.tenant, e.epoch AS n, coalesce(r.kind, '') AS name, coalesce(r.target, ''), coalesce(r.version, ''), '', '', NULL::jsonb, NULL::bytea,
       coalesce(r.epoch, 0) AS epoch, coalesce(r.state, 0), coalesce(r.drain, false)
FROM stepward.identity_epoch e
LEFT JOIN LATERAL (
    SELECT r.* FROM (
        SELECT unnest((SELECT $5::text[])::text[]) AS kind, unnest((SELECT $6::text[])::text[]) AS target
        UNION ALL SELECT 'profile', p.id::text FROM p WHERE p.tenant = e.tenant
    ) a CROSS JOIN LATERAL (
        SELECT * FROM stepward.revocation WHERE tenant = e.tenant AND kind = a.kind AND target = a.target OFFSET 0
    ) r
    UNION ALL
    SELECT * FROM stepward.revocation WHERE (SELECT $7::boolean) AND tenant = e.tenant AND kind IN ('key', 'version')
    UNION ALL
    SELECT * FROM stepward.revocation WHERE tenant = e.tenant AND kind NOT IN ('key', 'version', 'profile', 'tenant', 'workflow', 'run', 'worker')
) r ON r.state > 0 OR EXISTS (SELECT FROM stepward.revocation k
                              WHERE k.tenant = r.tenant AND k.kind = 'key' AND k.target = r.target AND k.state > 0 AND k.epoch < r.epoch)
WHERE e.tenant = '' OR e.tenant = ANY((SELECT $1::text[])::text[])
UNION ALL
SELECT tenant, id, name, project, environment, workflow, step, keys, policy, 0, 0, false FROM p;

-- name: IdentityShare
-- Holds up those that change what is revoked of tenants, and of all, until the transaction ends. Numbers: as IdentityLock.
SELECT pg_advisory_xact_lock_shared(hashtextextended('stepward identity ' || n, 0))
FROM (SELECT DISTINCT CASE t WHEN '' THEN -1 ELSE hashtextextended(t, 0) & 63 END AS n FROM unnest(array_append($1::text[], '')) AS t ORDER BY n) x;

-- name: RunTenant
SELECT tenant FROM stepward.run WHERE id = $1;

-- name: BindingGet
-- What a run is bound to; null: nothing. Which run it repeats, or the nearest of those that it is a child of; and the pins that it has
-- itself for a step.
WITH RECURSIVE up AS (
    SELECT r.id, r.parent_id, b.body, b.pins FROM stepward.run r LEFT JOIN stepward.binding b ON b.run_id = r.id WHERE r.id = $1
    UNION ALL
    SELECT r.id, r.parent_id, b.body, b.pins FROM up JOIN stepward.run r ON r.id = up.parent_id LEFT JOIN stepward.binding b ON b.run_id = r.id
    WHERE up.pins IS NULL
)
SELECT (SELECT body FROM up WHERE id = $1), (SELECT (pins ->> 'run')::bigint FROM up WHERE pins IS NOT NULL), (SELECT pins -> 'steps' -> $2::text FROM up WHERE id = $1);

-- name: BindingKin
-- Of a run, or of the nearest of those that it is a child of; the number of steps up.
WITH RECURSIVE up AS (
    SELECT id, parent_id, 0 AS n FROM stepward.run WHERE id = $1
    UNION ALL
    SELECT r.id, r.parent_id, up.n + 1 FROM up JOIN stepward.run r ON r.id = up.parent_id
    WHERE NOT EXISTS (SELECT FROM stepward.binding b WHERE b.run_id = up.id)
)
SELECT b.body, up.n FROM up JOIN stepward.binding b ON b.run_id = up.id;

-- name: BindingExplain
SELECT r.tenant, r.workflow, r.version, coalesce(d.version, ''), coalesce(d.steps, ''), b.body
FROM stepward.run r
LEFT JOIN stepward.definition d ON d.workflow = r.workflow AND d.version = r.version
LEFT JOIN stepward.binding b ON b.run_id = r.id
WHERE r.id = $1;
