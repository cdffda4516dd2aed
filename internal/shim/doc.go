// Package shim is the parent of a sandbox's commands, of one at a time: a process
// that starts a command in a Landlock domain of its own, adopts whatever it
// leaves behind, and reports the end when nothing is left.
//
// The shim is this program once more. It serves while the program's packages are
// being initialized, and never gets to most of them: they may take many times as
// long as all that a shim does. For the same reason this package and what it
// imports are few.
package shim
