package filestore

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/stepward/stepward/identity/broker"
)

const maxName = 256

// checkName refuses what is no name of a secret: up to 256 letters and digits of
// ASCII, and "_", "-", "." and "/" between them. Nothing else, so that no two names
// look alike, and none means something elsewhere.
func checkName(name string) error {
	ok := len(name) <= maxName
	for part := range strings.SplitSeq(name, "/") {
		ok = ok && part != "" && part[0] != '.' && strings.IndexFunc(part, odd) < 0
	}
	if !ok {
		return fmt.Errorf("filestore: %.80q: %w", name, broker.ErrName)
	}
	return nil
}

func odd(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-' && r != '.'
}

func checkTenant(tenant string) error {
	if len(tenant) > maxName || !utf8.ValidString(tenant) {
		return fmt.Errorf("filestore: tenant %.80q: %w", tenant, broker.ErrName)
	}
	return nil
}
