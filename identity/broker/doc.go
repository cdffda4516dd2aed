// Package broker is the opening side of a customer's secrets: the one process
// that may read their stores.
package broker
