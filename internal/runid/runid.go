// Package runid writes the ids of runs as text. It is apart from package workflow, which the tool runner
// of a sandbox does not link.
package runid

import (
	"encoding/base32"
	"encoding/binary"
	"strconv"
	"strings"
)

const prefix = "run_"

var encoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// Text returns an id as text.
func Text(id int64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(id))
	return prefix + encoding.EncodeToString(b[:])
}

// Parse reads an id from its text. Ids are above 0.
func Parse(text string) (id int64, ok bool) {
	digits, ok := strings.CutPrefix(text, prefix)
	b, err := encoding.DecodeString(digits)
	if err != nil || len(b) != 8 || !ok {
		return 0, false
	}
	id = int64(binary.BigEndian.Uint64(b))
	return id, id > 0
}

// Read reads an id as people give it: as text, or in digits.
func Read(text string) (id int64, ok bool) {
	if id, ok := Parse(text); ok {
		return id, true
	}
	id, err := strconv.ParseInt(text, 10, 64)
	return id, err == nil && id > 0
}
