package identitytest

import (
	"testing"

	"github.com/stepward/stepward/identity/broker"
)

// A Fixture is a store that is empty, or as good as, and what it can do. What is nil
// the store does not have, and is not tested.
type Fixture struct {
	Store broker.Store

	// Put gives a tenant's secret a new value and returns its path for a
	// [broker.Request], which has the name in it. Names have lower case letters,
	// digits and "-". Required.
	Put func(t testing.TB, tenant, name string, value []byte) (path string)

	// Remove takes a secret away, with all its versions. Required.
	Remove func(t testing.TB, tenant, name string)

	// Destroy takes one version away, as [broker.Value] had it. Nil: of a
	// secret there is only the current value.
	Destroy func(t testing.TB, tenant, name, version string)

	// Break makes the store unreachable for as long as the test runs. It comes last.
	Break func(t testing.TB)

	// Lease returns the path of a secret that is made for who asks, and Live whether one
	// that was got is still good at its source.
	Lease func(t testing.TB, tenant string) (path string)
	Live  func(t testing.TB, value broker.Value) bool

	// Binary says that values may be any bytes, and not only UTF-8 without NUL.
	Binary bool

	// Limit is the size of the largest value to try, if the source of the store has less room than
	// [broker.MaxValue].
	Limit int

	// Secrets are what no error may tell besides values, as the store's own token.
	Secrets []string
}
