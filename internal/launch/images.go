package launch

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Images are what workers may name, as Config.Images of a broker says.
type Images []string

// digestForm is what can stand behind the @ of an image.
var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Check returns an error that names what can be no image.
func (s Images) Check() error {
	for _, entry := range s {
		name, _, digest := split(entry)
		if _, err := path.Match(name, ""); err != nil || name == "" || strings.ContainsAny(entry, " \t\n,") || digest != "" && !digestForm.MatchString(digest) {
			return fmt.Errorf("%q is no image: want NAME, NAME:TAG or NAME@sha256:DIGEST, where NAME may have *", entry)
		}
	}
	return nil
}

// idForms is what an engine may take for the ID of an image, or its beginning.
var idForms = regexp.MustCompile(`^(sha[0-9]+:)?[0-9a-fA-F]+$`)

// Allow reports whether a worker may name an image.
func (s Images) Allow(image string) bool {
	name, tag, digest := split(image)
	for _, entry := range s {
		if entry == image {
			return true
		}
		if idForms.MatchString(image) { // of whatever image
			continue
		}
		n, t, d := split(entry)
		if ok, err := path.Match(n, name); err != nil || !ok {
			continue
		}
		switch {
		case d != "": // which is one image, whatever its tag
			if digest == d {
				return true
			}
		case t == "" || t == tag && digest == "": // an engine minds the digest alone
			return true
		}
	}
	return false
}

// split returns the parts of an image's reference.
func split(image string) (name, tag, digest string) {
	name, digest, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, tag = name[:i], name[i+1:]
	}
	return name, tag, digest
}
