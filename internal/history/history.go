// Package history reads and writes what is on record of a run as one JSON
// document, which users keep in their repositories and replay against new code.
//
// A document is the same, byte for byte, for the same record: fields have an
// order, each step is a line, and there is nothing in it that a replay does not
// need, such as times. Its format has a number. A reader refuses other numbers
// and skips fields that it does not know.
package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/stepward/stepward/internal/engine"
)

// Format is the number of the format that is written and read here.
const Format = 1

// A History is what is on record of one run.
type History struct {
	Run      string // id as text
	Origin   string // of a fork: the run whose chance it has; of a run that has begun anew: a number in that form; else empty
	Tenant   string
	Workflow string
	Version  string
	State    string    // live, completed, failed or canceled
	Tick     time.Time // of the schedule that enqueued it; zero otherwise
	Input    []byte    // JSON, as are the next two
	Output   []byte
	Error    []byte
	Steps    []engine.Checkpoint // by seq
}

// A FormatError reports a document in a format that this program cannot read.
type FormatError struct{ Format int }

func (e *FormatError) Error() string {
	return fmt.Sprintf("format %d, and this program reads format %d", e.Format, Format)
}

type document struct {
	Format   int             `json:"stepward_history"`
	Run      string          `json:"run"`
	Origin   string          `json:"origin,omitempty"`
	Tenant   string          `json:"tenant,omitempty"`
	Workflow string          `json:"workflow"`
	Version  string          `json:"version"`
	State    string          `json:"state"`
	Tick     time.Time       `json:"tick,omitzero"`
	Input    json.RawMessage `json:"input,omitempty"`
	Output   json.RawMessage `json:"output,omitempty"`
	Error    json.RawMessage `json:"error,omitempty"`
	Steps    []step          `json:"steps"`
}

type step struct {
	Seq     int             `json:"seq"`
	Done    int             `json:"done"`
	Key     string          `json:"key"`
	Attempt int             `json:"attempt,omitempty"`
	Hash    hash            `json:"input_hash,omitzero"`
	Output  json.RawMessage `json:"output,omitempty"`
	Error   json.RawMessage `json:"error,omitempty"`
}

// hash is written in hexadecimal: a number of 64 bits does not survive all
// that reads JSON.
type hash uint64

func (h hash) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(h)), nil }

func (h *hash) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 16, 64)
	*h = hash(v)
	return err
}

// Marshal writes the document. The error names the value that is no JSON.
func (h *History) Marshal() ([]byte, error) {
	d := document{Format: Format, Run: h.Run, Origin: h.Origin, Tenant: h.Tenant, Workflow: h.Workflow, Version: h.Version, State: h.State, Tick: h.Tick}
	var err error
	value := func(what string, b []byte) json.RawMessage {
		if len(b) > 0 && !json.Valid(b) && err == nil {
			err = fmt.Errorf("%s is no JSON", what)
		}
		return b
	}
	d.Input, d.Output, d.Error = value("input", h.Input), value("output", h.Output), value("error", h.Error)
	var out bytes.Buffer
	d.Steps = []step{}
	head, merr := json.MarshalIndent(d, "", "  ")
	if err = errors.Join(err, merr); err != nil {
		return nil, err
	}
	out.Write(bytes.TrimSuffix(head, []byte("]\n}")))
	for i, c := range h.Steps {
		line, merr := json.Marshal(step{Seq: c.Seq, Done: c.Done, Key: c.Key, Attempt: c.Attempt, Hash: hash(c.InputHash),
			Output: value("output of "+c.Key, c.Output), Error: value("error of "+c.Key, c.Error)})
		if err = errors.Join(err, merr); err != nil {
			return nil, err
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString("\n    ")
		out.Write(line)
	}
	if len(h.Steps) > 0 {
		out.WriteString("\n  ")
	}
	out.WriteString("]\n}\n")
	return out.Bytes(), nil
}

// Parse reads a document. A *[FormatError] is in the chain of its error when the
// format is another one.
func Parse(data []byte) (*History, error) {
	var format struct {
		Format int `json:"stepward_history"`
	}
	if err := json.Unmarshal(data, &format); err != nil {
		return nil, err
	}
	if format.Format != Format {
		return nil, &FormatError{format.Format}
	}
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, err
	}
	switch d.State {
	case "live", "completed", "failed", "canceled":
	default:
		return nil, fmt.Errorf("no such state: %q", d.State)
	}
	if d.Workflow == "" {
		return nil, errors.New("no workflow")
	}
	h := &History{Run: d.Run, Origin: d.Origin, Tenant: d.Tenant, Workflow: d.Workflow, Version: d.Version, State: d.State, Tick: d.Tick,
		Input: d.Input, Output: d.Output, Error: d.Error}
	dones := make(map[int]bool)
	last := -1
	for i, s := range d.Steps {
		switch {
		case s.Key == "":
			return nil, fmt.Errorf("step %d of the list has no key", i+1)
		case s.Seq <= last: // 0 is the cancelation
			return nil, fmt.Errorf("%s: seq %d after %d", s.Key, s.Seq, last)
		case s.Done < 1 || dones[s.Done]:
			return nil, fmt.Errorf("%s: done %d is taken, or below 1", s.Key, s.Done)
		}
		last = s.Seq
		dones[s.Done] = true
		h.Steps = append(h.Steps, engine.Checkpoint{Seq: s.Seq, Done: s.Done, Key: s.Key, Attempt: s.Attempt, InputHash: uint64(s.Hash),
			Output: s.Output, Error: s.Error})
	}
	return h, nil
}
