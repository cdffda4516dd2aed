// Package broker is the opening side of a customer's secrets: the one process
// that may read their stores.
//
// A worker asks it, for one attempt of a step, to seal what the step lists to the key
// of the attempt's sandbox, and carries the answer, which it cannot open:
//
//	worker -> broker   Begin    what the sandbox is to make a key for
//	worker -> broker   Issue    the sandbox's hello; an envelope
//	worker -> broker   Opened   for the record
//	worker -> broker   Renew    every five seconds: a challenge; an answer, or that it is revoked
//	worker -> broker   Close    leases are to be ended at their source: audit.LeaseRevoked
//
// # What it believes
//
// Nothing that a worker says of a run. The run, its attempt and their fence, the definition,
// what the run was bound to, profiles and what is revoked it reads from Postgres itself. What it
// is about to give out is on record there before it is sealed: one that dies in between has given
// out nothing.
//
// # Where it runs
//
// A worker whose program calls bootstrap.Init starts one as its child, with the worker's rights in
// Postgres and under its user: level L1-dev; or, where that was started as root, both under users of
// their own: level L1. [Serve] makes a service of it, as program brokerd does, on a unix socket for
// the users that are named, or by TLS for workers with a certificate: level L1, unless a worker could
// read what is the broker's. That is found out for each connection, from its user as the kernel says it
// and the modes of files; the log has what makes it L1-dev. Any number of brokers with one key ([Config].Dir) are
// one, and each may die at any time.
//
// # What it does not do
//
// Without an [Attestor] it does not attest the sandbox: a worker that is hostile, and not merely dumped or logged,
// could send it a hello of its own for an attempt that it has, and is on record with it. With one, level L2, the hello
// has a proof in it that only the sandbox's tool runner can have made, for this attempt and with this key.
package broker
