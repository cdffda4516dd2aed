package sandbox

import (
	"errors"
	"testing"
)

func TestRequireUnmet(t *testing.T) {
	all := Require{UserNS: true, Landlock: true, Seccomp: true, ReadOnlyRoot: true, Transparent: true, Isolation: "container"}
	full := Enforcement{Backend: "b", UserNS: true, Landlock: 1, Seccomp: true, ReadOnlyRoot: true, Transparent: true, Isolation: "container"}
	if err := all.unmet(full); err != nil {
		t.Errorf("all is met: %v", err)
	}
	if err := (Require{}).unmet(Enforcement{}); err != nil {
		t.Errorf("nothing is required: %v", err)
	}
	for field, weaken := range map[string]func(*Enforcement){
		"UserNS": func(e *Enforcement) { e.UserNS = false }, "Landlock": func(e *Enforcement) { e.Landlock = 0 },
		"Seccomp": func(e *Enforcement) { e.Seccomp = false }, "ReadOnlyRoot": func(e *Enforcement) { e.ReadOnlyRoot = false },
		"Transparent": func(e *Enforcement) { e.Transparent = false }, "Isolation": func(e *Enforcement) { e.Isolation = "namespaces" },
	} {
		e := full
		weaken(&e)
		var ue *UnsupportedError
		if err := all.unmet(e); !errors.As(err, &ue) || ue.Field != "Require."+field {
			t.Errorf("without %s: %v", field, err)
		}
	}
}
