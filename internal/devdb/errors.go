package devdb

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
)

var errNotSet = errors.New("not set")

// An Attempt is a [Way] that did not lead to a Postgres, and why.
type Attempt struct {
	Way Way
	Err error
}

// An UnavailableError reports that no way led to a Postgres. Its text lists
// each way with its reason, and says what to install.
type UnavailableError struct {
	Tried []Attempt
}

func (e *UnavailableError) Error() string {
	var b strings.Builder
	b.WriteString("devdb: no Postgres:")
	for _, a := range e.Tried {
		fmt.Fprintf(&b, "\n  %s: %v", a.Way, a.Err)
	}
	if len(e.Tried) == 1 && e.Tried[0].Way == WayURL {
		b.WriteString("\nunset DATABASE_URL to use a throw-away cluster of this machine instead")
		return b.String()
	}
	fmt.Fprintf(&b, "\nset DATABASE_URL, or install Postgres: %s", installHint(runtime.GOOS))
	return b.String()
}

// Unwrap returns the reason of each way.
func (e *UnavailableError) Unwrap() []error {
	errs := make([]error, len(e.Tried))
	for i, a := range e.Tried {
		errs[i] = a.Err
	}
	return errs
}

func installHint(goos string) string {
	switch goos {
	case "darwin":
		return "brew install postgresql@17"
	case "windows":
		return "start Docker, or take a server elsewhere"
	}
	return "apt-get install postgresql (Debian, Ubuntu), dnf install postgresql-server (Fedora), or start Docker"
}
