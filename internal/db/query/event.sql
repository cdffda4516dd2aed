-- name: EventList
-- The order is total, so that pages neither repeat nor leave out what happened at one moment.
SELECT e.at, e.run_id, coalesce(r.tenant, e.tenant, ''), e.kind, e.actor, e.step, e.detail
FROM stepward.audit_event e LEFT JOIN stepward.run r ON r.id = e.run_id
WHERE ($1::bigint IS NULL OR e.run_id = $1)
  AND ($2::text IS NULL OR coalesce(r.tenant, e.tenant) = $2)
  AND ($3::text[] IS NULL OR e.kind = ANY($3))
ORDER BY e.at, e.run_id, e.kind, e.step, e.detail
LIMIT $4 OFFSET $5;
