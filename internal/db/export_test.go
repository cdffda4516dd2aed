package db

// For the tests that need a worker, which imports this package.
var (
	Apply    = apply
	Migrated = migrated
)

// In puts the schemas' names into a statement.
func (q *Queries) In(sql string) string { return q.in(sql) }
