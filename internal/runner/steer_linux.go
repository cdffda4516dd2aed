package runner

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stepward/stepward/internal/envname"
)

// steering returns the name of the first variable of a worker's by which it would have programs execute, load
// or trust what it likes; "" if there is none.
func steering(env []string) string {
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		if steers, unless := envname.Steers(name); steers && (!unless || !fixed(value)) {
			return strings.ToValidUTF8(name, "\uFFFD")
		}
	}
	return ""
}

// fixed reports whether no program of the sandbox can put anything into the directories of a list, be they there or not.
func fixed(list string) bool {
	dirs := filepath.SplitList(list)
	return len(dirs) > 0 && !slices.ContainsFunc(dirs, func(dir string) bool { return !filepath.IsAbs(dir) || !readOnly(filepath.Clean(dir)) })
}

// readOnly reports whether what a path goes by, and what it is, is read-only.
func readOnly(path string) bool {
	if path != "/" && !readOnly(filepath.Dir(path)) {
		return false
	}
	if _, is, err := resolve(path); err == nil {
		return is
	}
	_, err := os.Lstat(path) // of a link to nothing
	return err != nil        // it will never be there
}
