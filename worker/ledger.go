package worker

import (
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/redact"
	"github.com/stepward/stepward/sandbox"
)

// A ledger has what the commands of one sandbox used, for the audit event of its
// end.
type ledger struct {
	mu   sync.Mutex
	used struct {
		Commands int       `json:"commands"`
		CPU      float64   `json:"cpu_ms"`
		Memory   int64     `json:"memory"` // of the largest
		In       int64     `json:"bytes_in"`
		Out      int64     `json:"bytes_out"`
		Each     []command `json:"each"` // the first maxEach

		// How often secrets were found on their way out of the sandbox, by name and class of encodings; and keys of
		// nobody knows whom in what had left it, by what they look like.
		Redacted  map[string]map[string]int64 `json:"redacted,omitempty"`
		Suspected map[string]int              `json:"suspected,omitempty"`
	}
}

// maxEach is how many commands an event has one by one; the sums have all.
const maxEach = 50

type command struct {
	Name      string  `json:"name"` // without its arguments
	CPU       float64 `json:"cpu_ms"`
	Wall      float64 `json:"wall_ms"`
	Memory    int64   `json:"memory"`
	In        int64   `json:"bytes_in"`
	Out       int64   `json:"bytes_out"`
	Truncated int64   `json:"truncated,omitempty"`
	Failed    bool    `json:"failed,omitempty"`
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// add takes note of a command that has ended.
func (l *ledger) add(name string, u sandbox.Usage, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.used
	s.Commands++
	s.CPU += milliseconds(u.CPU)
	s.Memory = max(s.Memory, u.Memory)
	s.In, s.Out = s.In+u.Stdin, s.Out+u.Stdout+u.Stderr
	if len(s.Each) < maxEach {
		s.Each = append(s.Each, command{
			Name: strings.ReplaceAll(name[:min(len(name), 200)], "\x00", "\uFFFD"), // which jsonb would refuse
			CPU:  milliseconds(u.CPU), Wall: milliseconds(u.Wall), Memory: u.Memory,
			In: u.Stdin, Out: u.Stdout + u.Stderr, Truncated: u.Truncated, Failed: err != nil,
		})
	}
}

// found takes note of what the sandbox has kept to itself, which it says itself: of what may be said, as the names that
// its step lists, and no more.
func (l *ledger) found(counts map[string]map[string]int64, listed []string) {
	known := make(map[string]map[string]int64)
	for _, name := range listed {
		name, _ = strings.CutSuffix(name, "?")
		for _, class := range redact.Classes() {
			if n := counts[name][class]; n > 0 {
				if known[name] == nil {
					known[name] = make(map[string]int64)
				}
				known[name][class] = n
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used.Redacted = known
}

// maxLook is how much of one text is looked through.
const maxLook = 1 << 20

// suspect looks through what has left a sandbox with secrets for what looks like a key: none that
// the sandbox knew is in it. It returns the kinds that are new.
func (l *ledger) suspect(text []byte) (kinds []string) {
	found := redact.Shapes(text[:min(len(text), maxLook)])
	if len(found) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, kind := range found {
		if l.used.Suspected == nil {
			l.used.Suspected = make(map[string]int)
		}
		if l.used.Suspected[kind]++; l.used.Suspected[kind] == 1 {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// json returns the ledger, nil when nothing ran.
func (l *ledger) json() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used.Commands == 0 && len(l.used.Redacted) == 0 && l.used.Suspected == nil {
		return nil
	}
	raw, err := json.Marshal(l.used)
	if err != nil {
		return nil
	}
	return raw
}
