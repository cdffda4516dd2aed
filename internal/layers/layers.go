// Package layers names the layers that a sandbox is made of, so that a test can
// leave one out and show that a probe then succeeds which fails otherwise.
//
// Capabilities are none of them: nothing in a sandbox has any, in no set, the
// bounding set included, and no test leaves that out. What the layers stop, they
// stop for a process that could not do it by its rights, either.
//
// A layer is switched off by a value in the context of Backend.Create. Only this
// module can make that value: there is no option for it.
package layers

import (
	"context"
	"strings"
)

// A Set is a set of layers.
type Set uint8

// The layers.
const (
	Landlock Set = 1 << iota // a domain for each exec
	Seccomp                  // the system call filter
	Network                  // the network namespace
	PID                      // the process namespace
	Mount                    // the file system of its own
	IDMap                    // ids that are nobody's outside
	Redirect                 // of what programs connect to: no wall, and so none of All
)

var names = []string{"landlock", "seccomp", "network", "pid", "mount", "idmap", "redirect"}

// All is every layer that keeps something in, in the order of the constants.
var All = []Set{Landlock, Seccomp, Network, PID, Mount, IDMap}

// Has reports whether all of l are in s.
func (s Set) Has(l Set) bool { return s&l == l }

// String lists the layers of s, separated by commas.
func (s Set) String() string {
	var out []string
	for i, n := range names {
		if s.Has(1 << i) {
			out = append(out, n)
		}
	}
	return strings.Join(out, ",")
}

// Parse is the inverse of String. It ignores what it does not know: a sandbox
// with all its layers is the safe reading.
func Parse(list string) Set {
	var s Set
	for _, w := range strings.Split(list, ",") {
		for i, n := range names {
			if w == n {
				s |= 1 << i
			}
		}
	}
	return s
}

type key struct{}

// Without returns a context in which a backend creates sandboxes without the
// layers of s.
func Without(ctx context.Context, s Set) context.Context {
	return context.WithValue(ctx, key{}, s)
}

// Off returns the layers to be left out.
func Off(ctx context.Context) Set {
	s, _ := ctx.Value(key{}).(Set)
	return s
}

type bindKey struct{}

// WithBind returns a context in which a backend shows the host's directory dir,
// read-only, at the same place in its sandboxes.
func WithBind(ctx context.Context, dir string) context.Context {
	return context.WithValue(ctx, bindKey{}, dir)
}

// Bind returns the directory to be shown, or "".
func Bind(ctx context.Context) string {
	dir, _ := ctx.Value(bindKey{}).(string)
	return dir
}
