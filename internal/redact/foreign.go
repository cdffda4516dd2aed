package redact

import "regexp"

// What addresses have of those who ask.
var (
	addressUser  = regexp.MustCompile(`(\w://)[^\s/@"']+@`)
	addressQuery = regexp.MustCompile(`(\w://[^\s?"']*)\?[^\s"']*`)
)

// Foreign is for a text of others, such as an error of a client that quotes what it asked. It returns it without
// what addresses authenticate with, and what kinds of keys it has all the same: with any, it is to be kept back.
func Foreign(text string) (out string, kinds []string) {
	out = addressQuery.ReplaceAllString(addressUser.ReplaceAllString(text, "${1}…@"), "${1}?…")
	return out, Shapes([]byte(out))
}
