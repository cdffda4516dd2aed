// Package runner is the tool runner: the program that serves inside a sandbox.
//
// [Main] turns the program that calls it into the part that the environment
// variable STEPWARD_SANDBOX names, and returns at once when it is not set. All parts
// but guest begin before main already, where package early is linked:
//
//   - serve: the tool runner on STEPWARD_SOCKET, a unix socket or an address of
//     loopback. It ends, and the sandbox with it, after STEPWARD_ORPHAN_AFTER
//     without an authenticated connection.
//   - install: a copy of the program to STEPWARD_INSTALL, for backends that bring
//     it into a sandbox from an image of its own.
//   - local: the tool runner of package local. It has set up the namespaces that
//     it was started in before main: see package nsroot. Connections arrive as
//     descriptors on an inherited socket; when that closes, the sandbox ends at once.
//   - dial: a pipe between stdin, stdout and the socket, for backends that reach
//     a sandbox by starting a process in it.
//   - shim: the parent of execs, of one at a time. It never gets to main: see
//     package shim.
//   - spy: what finds out whether commands could read the tool runner, before that
//     takes secrets.
//   - guest: one step's function, its input, its answer and what it shows by pipe.
//
// # What holds
//
// The runner, shims and guests cannot be traced and leave no core: they refuse
// to go on if that fails. Each exec has a Landlock domain of its own where the
// kernel has Landlock, so that two of them, though of one uid, cannot read each
// other's environment or memory, and cannot signal their shim or the runner.
// Killing an exec ends all of its descendants, also those that made themselves
// daemons. An exec ends with its first process.
//
// Secrets arrive sealed to a key that the runner has made, and are handed to the exec that
// may have them: to a guest with its call, to a command by its shim, which then serves no
// other. Their leash is measured here, so that it holds whatever the worker does.
//
// # What does not
//
// Names of processes and their arguments are visible to every exec of a sandbox.
// Without Landlock (an old kernel) execs of one sandbox are not apart, so one that has
// secrets runs alone.
package runner

import (
	"context"
	"time"

	"github.com/stepward/stepward/internal/confine"
)

// Names of the environment variables of the runner. None is passed on.
const (
	EnvMode        = confine.EnvMode
	EnvSocket      = "STEPWARD_SOCKET"       // path, or address of loopback
	EnvTokenHash   = "STEPWARD_TOKEN_SHA256" // hexadecimal
	EnvOrphanAfter = "STEPWARD_ORPHAN_AFTER" // as time.ParseDuration reads it
	EnvGuest       = "STEPWARD_GUEST"        // program for guest steps, empty: the runner
	EnvClosed      = "STEPWARD_CLOSED"       // "host port" that must not be reachable before anything is served
	EnvPIDs        = "STEPWARD_PIDS"         // processes and threads, beside those of the runner
	EnvOpenFiles   = "STEPWARD_OPEN_FILES"   // per process
	EnvInstall     = "STEPWARD_INSTALL"      // path
	EnvInstallMode = "STEPWARD_INSTALL_MODE" // octal
	EnvWithout     = confine.EnvWithout

	EnvWitness        = "STEPWARD_WITNESS"         // backend whose attestor knows the runner's secret; empty: there is none
	EnvWitnessFile    = "STEPWARD_WITNESS_FILE"    // that has the secret, and is removed; empty: the standard input
	EnvInstallWitness = "STEPWARD_INSTALL_WITNESS" // file that install copies to EnvWitnessFile
	EnvWitnessBroker  = "STEPWARD_WITNESS_BROKER"  // the broker's key for proofs, in base64
)

// Env are all of these names: who starts a runner in what somebody else has made says something of each.
var Env = []string{
	EnvMode, EnvSocket, EnvTokenHash, EnvOrphanAfter, EnvGuest, EnvClosed, EnvPIDs, EnvOpenFiles, EnvInstall, EnvInstallMode, EnvWithout,
	EnvWitness, EnvWitnessFile, EnvInstallWitness, EnvWitnessBroker, confine.EnvChildren,
}

// FewThreads is for the environment of a part beside the runner, see package confine.
const FewThreads = confine.FewThreads

// A GuestRequest is one guest step to run.
type GuestRequest struct {
	Workflow, Version, Step string
	RunID                   string
	Attempt                 int
	IdempotencyKey          string
	Input                   []byte
	Details                 []byte               // that an earlier attempt reported last
	Beat                    func(details []byte) // reports that the step is alive
	Outlet                  *Outlet              // takes what it shows
}

// A Guest runs a guest step. An error that has a method Permanent() bool or
// RetryAfter() time.Duration somewhere in its tree is reported with it.
type Guest func(ctx context.Context, req GuestRequest) (output []byte, err error)

// Config is what a serving runner needs.
type config struct {
	tokenHash   [32]byte
	orphanAfter time.Duration // 0: never
	guest       string        // program, empty: itself
	landlock    bool          // put execs into domains
	seccomp     bool          // filter system calls
	redirect    bool          // connect programs that know of no proxy
}

// Workspace is the default directory of commands, writable like /tmp.
const Workspace = confine.Workspace
