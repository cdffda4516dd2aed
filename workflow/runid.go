package workflow

import (
	"bytes"
	"encoding/base32"
	"encoding/binary"
	"fmt"
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

// UnmarshalText reads an id from its text, as of a request or a flag:
//
//	var id workflow.RunID
//	err := id.UnmarshalText([]byte(r.PathValue("run")))
func (id *RunID) UnmarshalText(text []byte) error {
	digits, ok := bytes.CutPrefix(text, []byte(runPrefix))
	b, err := runEncoding.AppendDecode(nil, digits)
	if err != nil || len(b) != 8 || !ok {
		return fmt.Errorf("workflow: %q is not a run id", text)
	}
	v := RunID(binary.BigEndian.Uint64(b))
	if v <= 0 {
		return fmt.Errorf("workflow: %q is not a run id", text)
	}
	*id = v
	return nil
}
