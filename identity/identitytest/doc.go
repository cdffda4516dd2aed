// Package identitytest checks that a store of secrets does what the broker relies on.
//
// [TestStore] runs against the real thing; a [Fixture] has what it needs beyond
// [broker.Store]: hands to put secrets into the store, and to take them out.
package identitytest
