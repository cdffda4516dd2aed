// Package vault reads secrets from HashiCorp Vault or OpenBao: key/value engines
// of version 2, and engines that make a secret for who asks, as database does.
//
// A reference is vault://MOUNT/PATH#FIELD, as vault://secret/acme/deploy#token. Without
// a field a secret must have one alone, or, if it was made for who asks, is all of its
// fields as JSON. Values that are no strings are given as JSON.
//
// # What a tenant may read
//
// The broker's token can usually read more than one tenant's secrets. Config.Places says
// where those of one are; anything else is refused before Vault is asked.
//
// # Versions
//
// The version of a value is its number and when it was made, since Vault counts from 1
// again after a path was deleted with its metadata. What was deleted or destroyed is no more;
// if that was the newest version, there is no current one. Vault keeps ten versions
// unless it is told otherwise: see max_versions.
//
// # Leases
//
// What is made for who asks is made under a token of its own, for one attempt: an orphan,
// so that the end of the broker's own token does not end it, with an end that nobody
// can put off (explicit_max_ttl). The lease is its accessor and the engine's own lease, and
// both are revoked. That needs a token role:
//
//	vault write auth/token/roles/stepward orphan=true renewable=false \
//	    allowed_policies=stepward-database token_no_default_policy=true
//
// and of the broker's own policy update on auth/token/create/stepward,
// auth/token/revoke-accessor and sys/leases/revoke/MOUNT/*; of stepward-database read on the engine's paths and
// update on sys/leases/renew.
//
// A broker that dies between such a secret and its record leaves it to its own end.
//
// # Wrapped values
//
// With Place.Wrap the broker does not have the values either. Vault wraps each for 60 seconds, and the
// token for that is sealed in the envelope; the sandbox looks up what it is for, compares that with the
// path, and has the value from Vault, once. A value that somebody else has had by then, or whose token is of
// another path, fails the step for good, and is on record (envelope.refused, reason wrap): rotate it. A
// value whose 60 seconds are over looks the same. If the broker is away for long, the step's failure alone
// says so. An answer that is lost on its way is no incident: the attempt has failed, and the next one has
// the value wrapped anew.
//
// It needs Vault by https, without a certificate of the client; a network of each step that has such a
// secret that allows Vault's host and port, as vault.example.com:8200, and also its address or a CIDR if
// that is a private one (see sandbox.NetworkPolicy); and a policy by which Vault refuses the broker what
// is not wrapped, without which the broker could still read it:
//
//	path "secret/metadata/*" { capabilities = ["read"] }
//	path "secret/data/*" {
//	    capabilities     = ["read"]
//	    min_wrapping_ttl = "1s"
//	    max_wrapping_ttl = "2m"
//	}
//
// The sandbox trusts the certificates that the broker's connection to Vault was verified by. A broker that
// is taken over can wrap a value for itself: Vault's audit log has who unwrapped what. Such a value cannot
// be put into requests (Key.Inject), and in a reproduction it is known by its version alone.
package vault
