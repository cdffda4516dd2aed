// Package confine is what a process of a sandbox does to itself before anything
// that must not be trusted runs beside it: it becomes untraceable, gives up
// privileges and system calls, and puts what it starts into a Landlock domain.
//
// It and its dependencies are few, for package shim and package nsroot do their
// work while the packages of the program are being initialized, before most of
// them.
package confine

// EnvMode names the part of a sandbox that a program is to be, see package runner.
const EnvMode = "STEPWARD_SANDBOX"

// EnvWithout names the layers to be left out, for tests: see package layers.
const EnvWithout = "STEPWARD_WITHOUT"

// EnvChildren is the limit that a shim gives what it starts, if any.
const EnvChildren = "STEPWARD_CHILDREN"

// Workspace is the default directory of commands, writable like /tmp.
const Workspace = "/workspace"

// Self is the program that runs, also where its path is not visible.
const Self = "/proc/self/exe"

// ExitSetup is the exit status of a part that could not begin its work.
const ExitSetup = 125
