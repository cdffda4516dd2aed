package identity

import (
	"regexp"
	"sync"
)

// pattern returns a regular expression that is compiled when it is first used. This
// package is part of programs that are started for each sandbox and guest step, most of
// which never use it, and to compile a bound such as {0,127} takes longer than all
// else that happens before their main.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
