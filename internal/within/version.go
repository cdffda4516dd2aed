package within

import "strings"

// Version reports whether who says a version means another: that, or what a store has put an "@" and more behind, so
// that it names one value for ever.
func Version(said, version string) bool {
	return said == version || strings.HasPrefix(version, said+"@")
}

// Alike reports whether two versions may be the same.
func Alike(a, b string) bool { return Version(a, b) || Version(b, a) }
