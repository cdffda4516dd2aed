// Package sops reads secrets from files that SOPS encrypted, by its program: a
// library of it would link the clients of every cloud into the broker.
//
// Each tenant has a folder in Config.Dir. A reference is sops://FILE#KEY, as
// sops://deploy.yaml#database.password for a file of tenant acme at DIR/acme/deploy.yaml:
// its format is that of its name, .yaml, .yml, .json, .env or .ini, and dots lead to what is
// nested. Another file is a secret as a whole, and has no key in its reference. What is no text is given as JSON.
//
// The version of a value is a digest of the encrypted file. There is no other than
// the current one: a file that has changed since has no version of before.
//
// # What it does not promise
//
// SOPS does not bind a file to its name. Who can write to the directory can put one tenant's
// file in another's folder, or an older one in place of a newer one, and neither is noticed; it can also name
// a server in a file that the program asks for a key, with what Config.Env gives it.
// Treat that directory as you treat the keys. What a file has besides the key
// that is asked for is in the broker's memory for a moment.
package sops
