package enqueue

import (
	"fmt"
	"regexp"
	"strings"
	"time"
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

// BadPriority returns what is wrong with a priority, or "".
func BadPriority(p int) string {
	if p < -1000 || p > 1000 {
		return fmt.Sprintf("%d is not within -1,000 and 1,000", p)
	}
	return ""
}

// BadLimit returns what is wrong with a field of a limit, or "".
func BadLimit(l Limit) (field, reason string) {
	switch {
	case l == Limit{}:
		return "", ""
	case BadText(l.Key) != "":
		return "Key", BadText(l.Key)
	case l.Key == "":
		return "Key", "is required"
	case strings.ContainsRune(l.Key, 1):
		return "Key", "want no control character U+0001"
	case l.Concurrency < 0 || l.Concurrency > 1_000_000:
		return "Concurrency", fmt.Sprintf("%d is not within 0 and 1,000,000", l.Concurrency)
	case l.Rate < 0 || l.Rate > 1_000_000:
		return "Rate", fmt.Sprintf("%d is not within 0 and 1,000,000", l.Rate)
	case l.Concurrency == 0 && l.Rate == 0:
		return "Concurrency", "want one, or a Rate"
	case l.Per < 0 || l.Per > 366*24*time.Hour:
		return "Per", fmt.Sprintf("%v is not within 0 and 366 days", l.Per)
	}
	return "", ""
}
