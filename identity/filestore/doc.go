// Package filestore keeps secrets in encrypted files: the store that needs
// nothing to be set up, for one host.
//
// A [Store] is a directory. Each version of a secret is a record of its own, under
// AES-256-GCM with the store, its file, the tenant, the name and the version as
// additional data, so that none can take the place of another. The key of the
// records is random and wrapped by age, to an identity in a file outside of the
// directory that [Open] makes at first use, or to a passphrase. An index under an
// HMAC says which records there are; each change raises its generation.
//
// What a method has returned is on disk. Changes are atomic: after a crash, a full
// disk or a cut write the store is what it was before, or what it was to become.
// Writers exclude each other, also those of other processes; readers wait for nobody.
//
// # What is detected
//
// A bit flipped, a record cut, removed, or put in another's place, an index or a key
// that somebody else wrote: all wrap [broker.ErrCorrupt]. So does a directory that was
// set back as a whole, as long as something outside of it knows better: a Store that is
// open, or the mark, a file that names the newest generation (Config.Mark). Who
// can set back the directory and the mark, and has all that have the store open start
// again, is not detected. Put the mark where a backup of the directory does not go.
//
// # What is not
//
// Who can read the identity file reads everything, and so does who has the
// operating system's account that it belongs to. Deleted records are overwritten by
// no one: disks and their snapshots may have them, until [Store.Rekey] has made their
// key worthless. Names of tenants and secrets, times and sizes are not encrypted.
package filestore
