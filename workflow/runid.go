package workflow

import (
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// A RunID names a run. Ids grow with time; as text they are "run_" and 13
// characters that sort like the ids.
type RunID int64

const runPrefix = "run_"

var runEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// String returns the id as text.
func (id RunID) String() string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(id))
	return runPrefix + runEncoding.EncodeToString(b[:])
}

// Time returns when the run was enqueued, to the millisecond.
func (id RunID) Time() time.Time { return time.UnixMilli(int64(id) >> 20) }

// MarshalText encodes the id as [RunID.String] does.
func (id RunID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText decodes what MarshalText wrote.
func (id *RunID) UnmarshalText(text []byte) error {
	v, err := ParseRunID(string(text))
	if err == nil {
		*id = v
	}
	return err
}

// ParseRunID reads an id from its text.
func ParseRunID(s string) (RunID, error) {
	b, err := runEncoding.DecodeString(strings.TrimPrefix(s, runPrefix))
	if err != nil || len(b) != 8 || !strings.HasPrefix(s, runPrefix) {
		return 0, fmt.Errorf("workflow: %q is not a run id", s)
	}
	id := RunID(binary.BigEndian.Uint64(b))
	if id <= 0 {
		return 0, fmt.Errorf("workflow: %q is not a run id", s)
	}
	return id, nil
}
