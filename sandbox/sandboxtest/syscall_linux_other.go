//go:build linux && !amd64

package sandboxtest

// otherTables are calls by other numbers than this architecture's own.
var otherTables = map[string]func() error{}
