package identity

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/stepward/stepward/internal/envname"
)

// A Key is what a profile says of a name. At most one of Ref, Knob, Unset and
// Deny is given; without, it only restricts what other profiles set.
type Key struct {
	Ref     string `json:"ref,omitempty"`     // to a secret: scheme://path, see SplitRef
	Version string `json:"version,omitempty"` // as the store has it; empty: the current one at each attempt
	Knob    string `json:"knob,omitempty"`    // a plain value, no secret, of up to 4 KiB

	Unset bool `json:"unset,omitempty"` // hides what broader profiles set
	Deny  bool `json:"deny,omitempty"`  // nothing may set it, broader or narrower
	Lock  bool `json:"lock,omitempty"`  // nothing narrower may set it

	// Commands are those of a tool step that may have the key: base names, or absolute
	// paths, which is safer. Of several profiles that say so, what is in all. None: no
	// command may. The function of a guest step is no command: it has what its step lists.
	Commands []string `json:"commands,omitempty"`

	Required bool  `json:"required,omitempty"` // a step that lists the name does not run without, even if it says "?"
	MinLevel Level `json:"min_level,omitzero"` // below it, the key is not given out
	Strict   bool  `json:"strict,omitempty"`   // what has it is killed, not frozen, when it cannot be renewed
	File     bool  `json:"file,omitempty"`     // the variable holds the path of a file with the value
	Retarget bool  `json:"retarget,omitempty"` // runs that are enqueued follow when Ref changes; else they do not get the key
	Weak     bool  `json:"weak,omitempty"`     // accepts a value that is too short, or too plain, to be redacted

	Inject *Inject `json:"inject,omitempty"` // the value does not enter the sandbox
}

// sets reports whether the key gives the name something.
func (k Key) sets() bool { return k.Ref != "" || k.Knob != "" }

const (
	maxKnob     = 4 << 10
	maxCommands = 64
)

var commandName = pattern(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}$`)

// problem returns what is wrong with the key, or "". It does not repeat what was given: that may be a secret, by mistake.
func (k Key) problem(name string) string {
	if reason := envname.Problem(name, k.Knob != ""); reason != "" {
		return reason
	}
	given := 0
	for _, is := range []bool{k.Ref != "", k.Knob != "", k.Unset, k.Deny} {
		if is {
			given++
		}
	}
	restricts := len(k.Commands) > 0 || k.Required || k.MinLevel != L0 || k.Strict || k.Lock
	switch {
	case given > 1:
		return "want one of Ref, Knob, Unset and Deny"
	case given == 0 && !restricts:
		return "says nothing: want one of Ref, Knob, Unset and Deny, or a restriction"
	case k.Ref == "" && (k.Version != "" || k.File || k.Retarget || k.Weak || k.Inject != nil):
		return "Version, File, Retarget, Weak and Inject are of a Ref"
	case k.Inject != nil && k.Weak:
		return "a value that cannot be redacted is not for Inject"
	case k.Inject != nil && k.Inject.problem() != "":
		return k.Inject.problem()
	case k.Version != "" && !version().MatchString(k.Version):
		return "bad Version: want 1 to 200 visible ASCII characters"
	case k.Version != "" && k.Retarget:
		return "a key with a Version does not follow"
	case k.MinLevel < L0 || k.MinLevel > L3:
		return fmt.Sprintf("no such level: %v", k.MinLevel)
	case len(k.Knob) > maxKnob:
		return fmt.Sprintf("Knob of over %d bytes", maxKnob)
	case strings.ContainsRune(k.Knob, 0) || !utf8.ValidString(k.Knob):
		return "bad Knob: want UTF-8 without NUL"
	case len(k.Commands) > maxCommands:
		return fmt.Sprintf("%d Commands, the limit is %d", len(k.Commands), maxCommands)
	}
	if k.Ref != "" {
		if _, _, reason := splitRef(k.Ref); reason != "" {
			return reason
		}
	}
	for i, c := range k.Commands {
		if !validCommand(c) {
			return fmt.Sprintf("bad Commands[%d]: want a base name or a clean absolute path", i)
		}
	}
	return ""
}

func validCommand(c string) bool {
	if !path.IsAbs(c) {
		return commandName().MatchString(c)
	}
	return len(c) <= 512 && path.Clean(c) == c && c != "/" && utf8.ValidString(c) && !strings.ContainsFunc(c, func(r rune) bool { return r < ' ' || r > '~' || r == '*' || r == '?' })
}
