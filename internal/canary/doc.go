// Package canary is a test: it plants secrets, has workers do all that a worker does, and
// then looks for the secrets in whatever the machine has outside of the sandboxes. All that it
// has besides is the search, which others use, too.
//
// The test's process is the operator and the observer. It starts its own program as the
// workers, which start it as their broker, and in their sandboxes.
package canary
