// Package image reads images from files and keeps their file systems unpacked, for
// package sandbox/local.
//
// A reference is a path: of a tar that docker save wrote, of the tar of an OCI
// layout, or of the directory of one. "@sha256:…" after it pins what is there, by
// the digest of an index, of a manifest, or of a configuration, which is the ID that
// docker images shows. Each of them fixes the content: what is read is checked
// against it, down to the last byte of a layer.
//
// Layers are applied in their order, each entry through [os.Root] below a path whose
// links were resolved as they will be once the tree is a root. What an image says of
// owners is turned into rights: everybody gets those of the sandbox's id, as the
// image gives them to it. Devices, pipes and extended attributes are left out, as are
// the set-user-ID and set-group-ID bits.
package image

import (
	"errors"
	"fmt"
)

// An Error says why an image cannot be used.
type Error struct {
	Reason string
	Err    error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Reason
	}
	return e.Reason + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

func bad(err error, format string, args ...any) error {
	var already *Error
	if errors.As(err, &already) {
		return err
	}
	return &Error{Reason: fmt.Sprintf(format, args...), Err: err}
}
