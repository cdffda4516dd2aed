package shim

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// A Request is a command to execute. Its descriptors, from 0 on, come with it.
type Request struct {
	Name     string
	Args     []string
	Dir      string // absolute; empty: the workspace
	Env      []string
	Landlock bool   // put it into a domain of its own
	Path     string // what is executed; empty: what Name is found as
	Terminal bool   // its descriptor 0 is one, and becomes the one that controls it
	Hold     bool   // its calls of connect, for who has the Listener of its Event

	// Secrets are variables besides, of which the values follow the request. A shim
	// that was given any serves no other request.
	Secrets []Secret `json:",omitempty"`

	// Signal, if not 0, makes this no command: it goes to the process group of the
	// last one, while its first process runs.
	Signal int `json:",omitempty"`
}

// A Secret is a variable whose value no message holds.
type Secret struct {
	Name string
	Size int
	File bool // the variable holds the path of a file that has the value

	value []byte
}

// An Event is what a shim says: that it is ready for its first request, and of each
// that the command has started, and its end. A command that cannot be started has an
// end only.
type Event struct {
	Ready   bool
	Started bool

	// Listener comes with Started, if the request was to Hold. See package confine.
	Listener *os.File `json:"-"`

	Code       int    // exit status, -1 without one
	Signal     string // that ended it: "SIGKILL"
	StartErrno int
	StartError string
	Lost       bool // nothing of it is left, and how it ended is unknown
	Crowded    bool // it failed, and there were as many processes as there may be
	Nearly     bool // it failed, and would have met that limit with one or two more shims

	// What its processes used: time of processors in nanoseconds, and the bytes that
	// the largest of them held.
	CPU       int64
	MaxMemory int64
}

// maxMessage bounds a message, in bytes.
const maxMessage = 256 << 20

// encode returns a message: its length, and v as JSON.
func encode(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxMessage {
		return nil, fmt.Errorf("a command of %d bytes", len(raw))
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw...), nil
}

func write(w io.Writer, v any) error {
	raw, err := encode(v)
	if err == nil {
		_, err = w.Write(raw)
	}
	return err
}

func read(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	return readBody(r, binary.BigEndian.Uint32(head[:]), v)
}

func readBody(r io.Reader, size uint32, v any) error {
	if size > maxMessage {
		return fmt.Errorf("a message of %d bytes", size)
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(r, raw); err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}
