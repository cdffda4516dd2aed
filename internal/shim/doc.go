// Package shim is the parent of a sandbox's commands, of one at a time: a process
// that starts a command in a Landlock domain of its own, adopts whatever it
// leaves behind, and reports the end when nothing is left.
//
// Where only the first process of a PID namespace adopts what others leave, in a
// gVisor before 2023, a shim is the first of one, with a user namespace to be allowed to.
//
// The shim is this program once more. It serves while the program's packages are
// being initialized, and never gets to most of them: they may take many times as
// long as all that a shim does. For the same reason this package and what it
// imports are few, and none that is initialized late: of the packages that are ready, the
// one whose name comes first is the next.
package shim
