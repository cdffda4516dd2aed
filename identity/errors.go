package identity

import (
	"errors"
	"fmt"
	"strings"
)

// What a [KeyError] is about.
var (
	// ErrMissing reports a key that is required and that nothing sets, or not any more.
	ErrMissing = errors.New("identity: no profile sets it")

	// ErrDenied reports a key that a profile denies, by Deny or by its Policy.
	ErrDenied = errors.New("identity: denied")

	// ErrLocked reports a key that is set below a lock.
	ErrLocked = errors.New("identity: set below a lock")

	// ErrAmbiguous reports a key that two profiles name equally narrowly.
	ErrAmbiguous = errors.New("identity: ambiguous")
)

// What a [KeyError] of a start may be about, beyond those of a [Resolved].
var (
	// ErrUnbound reports a name that the run was not bound to when it was enqueued.
	ErrUnbound = errors.New("identity: not bound when the run was enqueued")

	// ErrRetargeted reports a name that refers to something else than when the run was
	// enqueued, and has no Retarget.
	ErrRetargeted = errors.New("identity: it refers to something else than when the run was enqueued")
)

// A KeyError reports a name that a step does not get.
type KeyError struct {
	Step   string // empty: of no step in particular
	Key    string // empty: it is about the run, or its workflow or tenant
	Detail string // which profiles, or what is revoked; may be empty
	Err    error  // ErrMissing, ErrDenied, ErrLocked, ErrAmbiguous, ErrRevoked, ErrUnbound or ErrRetargeted

	Rulings []Ruling // of the policies that were asked, if one of them denies it
}

func (e *KeyError) Error() string {
	var b strings.Builder
	b.WriteString("identity: ")
	if e.Step != "" {
		b.WriteString("step " + e.Step + ": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(strings.TrimPrefix(e.Err.Error(), "identity: "))
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	return b.String()
}

func (e *KeyError) Unwrap() error { return e.Err }

// A ProfileError reports what cannot be in a profile, or asked for. Nothing was changed.
type ProfileError struct {
	Profile string // its name, if it is about one
	Key     string // empty: the profile itself
	Reason  string

	Line, Column int // of its Policy, from 1; 0: it is not about that
}

func (e *ProfileError) Error() string {
	var b strings.Builder
	b.WriteString("identity: ")
	if e.Profile != "" {
		b.WriteString("profile " + e.Profile + ": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, "policy, line %d, column %d: ", e.Line, e.Column)
	}
	return b.String() + e.Reason
}
