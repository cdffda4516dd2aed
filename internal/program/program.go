// Package program finds the executable file that is brought into a sandbox, to
// be its tool runner and to run guest steps.
//
// A sandbox's root file system may hold nothing at all, so the program has to be
// static. Go links statically unless a package uses cgo, which net and os/user
// do wherever a C compiler is installed. [Find] therefore looks, in this order,
// for the program that was configured, for the running program if it is static,
// and for a static build of the running program, which it makes from source when
// sources and a Go toolchain are at hand.
package program

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
)

// A Program is an executable file for Linux.
type Program struct {
	Path   string // file to read it from
	Origin string // "configured", "own" or "built"
	Arch   string // as GOARCH has it
	Loader string // dynamic loader that the image must have, empty when static
}

// Want says what [Find] looks for.
type Want struct {
	Configured string // path of a program named by the user, if any
	Arch       string // GOARCH of the sandbox; empty means this machine's
}

// An Error reports that no program can be brought into a sandbox. It says which
// program was looked at and what to do.
type Error struct {
	Program string // path or import path of the culprit
	Reason  string
	Err     error
}

func (e *Error) Error() string {
	s := "program " + e.Program + ": " + e.Reason
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// howTo ends every message about a program that cannot be used.
const howTo = "build it with CGO_ENABLED=0, or configure a static program that calls bootstrap.Init"

// Find returns the program for a sandbox, or an [*Error]. A configured program
// may be dynamic: whether the image has its loader is only known once there is
// an image, see [Program.Loader]. Building from source takes seconds, or minutes
// when the go command's cache is empty, and is logged; its result is kept in the user's
// cache directory. The end of ctx ends it, with all that it has started where there are
// process groups.
func Find(ctx context.Context, w Want) (Program, error) {
	if w.Arch == "" {
		w.Arch = runtime.GOARCH
	}
	if w.Configured != "" {
		p, err := inspect(w.Configured)
		if err != nil {
			return Program{}, err
		}
		if p.Arch != w.Arch {
			return Program{}, &Error{Program: w.Configured, Reason: fmt.Sprintf("is built for %s, the sandbox is %s", p.Arch, w.Arch)}
		}
		p.Origin = "configured"
		return p, nil
	}

	self, err := own()
	if err != nil {
		return Program{}, &Error{Program: os.Args[0], Reason: "cannot find the file of the running program", Err: err}
	}
	p, err := inspect(self)
	if err == nil && p.Loader == "" && p.Arch == w.Arch {
		p.Origin = "own"
		return p, nil
	}
	return build(ctx, self, w.Arch)
}

type loggerKey struct{}

// WithLogger has a build log to l, and not to the default logger.
func WithLogger(ctx context.Context, l *slog.Logger) context.Context {
	return context.WithValue(ctx, loggerKey{}, l)
}

func logger(ctx context.Context) *slog.Logger {
	if l, ok := ctx.Value(loggerKey{}).(*slog.Logger); ok {
		return l
	}
	return slog.Default()
}

// own is where the running program can be read. On Linux this holds even after
// its file was replaced or removed, as go run does at its end.
func own() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	return os.Executable()
}
