package identity

import (
	"slices"
	"strings"
)

var (
	schemeForm = pattern(`^[a-z][a-z0-9+.-]{0,31}$`)
	pathForm   = pattern(`^[A-Za-z0-9._~/@:+=,#-]{1,512}$`)
	version    = pattern(`^[!-~]{1,200}$`)

	// workflowForm is what names of workflows are: see Name of internal/enqueue, which imports this package.
	workflowForm = pattern(`^[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}$`)
)

// SplitRef takes a reference apart: vault://kv/acme/deploy#token has the scheme
// vault, which names the store, and the rest for its path, whose meaning is the
// store's affair. The error is a *[ProfileError]. So that what is compared is what a store
// reads, a path has one spelling: ASCII letters, digits and ._~/@:+=,#- and no
// part of it is empty, "." or "..".
func SplitRef(ref string) (scheme, path string, err error) {
	scheme, path, reason := splitRef(ref)
	if reason != "" {
		return "", "", &ProfileError{Reason: reason}
	}
	return scheme, path, nil
}

// The reason does not repeat what was given: it may be the secret itself, by mistake.
func splitRef(ref string) (scheme, path, reason string) {
	scheme, path, ok := strings.Cut(ref, "://")
	switch {
	case len(ref) > 550:
		return "", "", "bad reference: over 550 bytes"
	case !ok || !schemeForm().MatchString(scheme):
		return "", "", "bad reference: want scheme://path"
	case !pathForm().MatchString(path):
		return "", "", "bad reference: want a path of 1 to 512 letters, digits and ._~/@:+=,#-"
	case slices.ContainsFunc(strings.FieldsFunc(path+"/", func(r rune) bool { return r == '#' }), badSegments):
		return "", "", "bad reference: a part of its path is empty, . or .."
	}
	return scheme, path, ""
}

// badSegments reports whether a part between slashes is not the name of anything.
func badSegments(path string) bool {
	return slices.ContainsFunc(strings.Split(strings.TrimSuffix(path, "/"), "/"), func(s string) bool { return s == "" || s == "." || s == ".." })
}
