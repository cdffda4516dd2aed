package identity

import "github.com/stepward/stepward/internal/envname"

var envName = pattern(`^[A-Z_][A-Z0-9_]{0,127}$`)

// CheckName returns what is wrong with a name that a step lists, or nil: a
// *[ProfileError]. It becomes the name of a variable in the environment of a
// program, so those are refused that programs execute, load or trust something by.
func CheckName(name string) error {
	if reason := badName(name, true); reason != "" {
		return &ProfileError{Key: name, Reason: reason}
	}
	return nil
}

func badName(name string, knob bool) string {
	switch {
	case !envName().MatchString(name):
		return "bad name: want 1 to 128 of A-Z, 0-9 and _, not starting with a digit"
	case knob && envname.Harmless(name):
		return ""
	case envname.Reserved(name):
		return "reserved name: programs execute, load or trust something by it"
	}
	return ""
}
