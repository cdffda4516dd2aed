package enqueue

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Name is what the names of workflows, steps, signals and branches look like.
var Name = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}$`)

// NameRule says it in words.
const NameRule = "want 1 to 100 letters, digits and _-./, not starting with -./"

// BadText returns what is wrong with a tenant or a key, or "".
func BadText(s string) string {
	switch {
	case len(s) > 200:
		return fmt.Sprintf("%d bytes, the limit is 200", len(s))
	case strings.ContainsRune(s, 0) || !utf8.ValidString(s):
		return "want UTF-8 without NUL, as Postgres does"
	}
	return ""
}
