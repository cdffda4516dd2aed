package workflow

import (
	"fmt"
	"time"

	"github.com/stepward/stepward/internal/runid"
)

// A RunID names a run. Ids grow with time; as text they are "run_" and 13
// characters that sort like the ids.
type RunID int64

// String returns the id as text.
func (id RunID) String() string { return runid.Text(int64(id)) }

// Time returns when the run was enqueued, to the millisecond.
func (id RunID) Time() time.Time { return time.UnixMilli(int64(id) >> 20) }

// MarshalText encodes the id as [RunID.String] does.
func (id RunID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads an id from its text, as of a request or a flag:
//
//	var id workflow.RunID
//	err := id.UnmarshalText([]byte(r.PathValue("run")))
func (id *RunID) UnmarshalText(text []byte) error {
	v, ok := runid.Parse(string(text))
	if !ok {
		return fmt.Errorf("workflow: %q is not a run id", text)
	}
	*id = RunID(v)
	return nil
}
