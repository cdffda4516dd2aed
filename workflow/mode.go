package workflow

import "fmt"

// A Mode says where a step runs and what it may hold there. Modes are ordered:
// a later one may do what an earlier one may.
type Mode int

// The modes. Agent and AgentJIT cannot be executed yet: a workflow that names
// them is refused at enqueue with a *[DefinitionError].
const (
	Bare      Mode = iota // inline on the worker
	Sandboxed             // in a sandbox, without any secret
	Identity              // in a sandbox, with those of a tenant's secrets that [StepOptions].Secrets lists
	Agent                 // a CLI agent in such a sandbox
	AgentJIT              // an agent that may ask for secrets while it works
)

var modeNames = [...]string{"bare", "sandboxed", "identity", "agent", "agent_jit"}

// String returns the mode's name as rows, logs and events have it.
func (m Mode) String() string {
	if m < 0 || int(m) >= len(modeNames) {
		return fmt.Sprintf("mode(%d)", int(m))
	}
	return modeNames[m]
}

// supported reports whether a worker of this version can execute the mode.
func (m Mode) supported() bool { return m >= Bare && m <= Identity }
