package filestore

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/stepward/stepward/identity/broker"
)

// ErrKey reports that the identity or the passphrase does not open the store, or that the file of the identity is gone.
var ErrKey = errors.New("filestore: the identity or passphrase does not open the store")

// A ModeError reports a file that others than its owner could use, or that is
// another user's. It was not read.
type ModeError struct {
	Path string
	Mode fs.FileMode
	Want fs.FileMode // its permissions at most

	owner string // whose it is, if it is not this user's
}

func (e *ModeError) Error() string {
	if e.owner != "" {
		return fmt.Sprintf("filestore: %s is user %s's: it must be this user's own, and have %04o at most", e.Path, e.owner, e.Want)
	}
	return fmt.Sprintf("filestore: %s has mode %04o: it must be this user's own, and have %04o at most", e.Path, e.Mode.Perm(), e.Want)
}

// A CorruptError says what of a store was damaged. It wraps [broker.ErrCorrupt].
type CorruptError struct {
	Path   string
	Reason string
}

func (e *CorruptError) Error() string { return "filestore: " + e.Path + " " + e.Reason }

// Unwrap returns [broker.ErrCorrupt].
func (e *CorruptError) Unwrap() error { return broker.ErrCorrupt }
