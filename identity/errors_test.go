package identity_test

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stepward/stepward/identity"
)

// Each sentinel says which package it is of, and an error that wraps one says that once.
func TestSentinels(t *testing.T) {
	for _, err := range []error{identity.ErrMissing, identity.ErrDenied, identity.ErrLocked, identity.ErrAmbiguous, identity.ErrRevoked, identity.ErrUnbound, identity.ErrRetargeted, identity.ErrNotFound, identity.ErrConflict} {
		if !strings.HasPrefix(err.Error(), "identity: ") {
			t.Errorf("%q", err)
		}
		wrapped := &identity.KeyError{Step: "publish", Key: "TOKEN", Detail: "profile a", Err: err}
		if text := wrapped.Error(); strings.Count(text, "identity: ") != 1 || !strings.HasPrefix(text, "identity: step publish: TOKEN: ") {
			t.Errorf("%q", text)
		}
	}
}

// What is stored of a key, and its event, call a field by its name.
func TestKeyFields(t *testing.T) {
	for i := range reflect.TypeFor[identity.Key]().NumField() {
		f := reflect.TypeFor[identity.Key]().Field(i)
		want := strings.ToLower(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(f.Name, "${1}_$2"))
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != want {
			t.Errorf("%s is %q, want %q", f.Name, name, want)
		}
	}
}
