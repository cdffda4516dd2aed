package identity

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode/utf8"
)

// An Engine reads the policy of a profile: it is cedar.Parse of package identity/cedar. The
// error is a *[ProfileError]. The broker has it, and who changes profiles: see
// [Options].Engine. What defines, enqueues and executes runs links none.
type Engine func(policy string) (Policy, error)

// A Policy is one that an [Engine] has read.
type Policy interface {
	// Decide answers a question: whether, which statements say so, and why not. What
	// cannot be evaluated is denied.
	Decide(Question) Ruling
}

// A Question is what policies are asked: may a step have a key, for one command?
type Question struct {
	Place   Scope  // of the step
	Version string // of its workflow
	Level   Level  // how far the key would be kept from the worker: L3 of one with Inject, if the attempt has L1 or more
	Name    string // of the key
	Key     Key
	From    Origin // of the key
	Command string // base name or absolute path, as Key.Commands has it; empty: the step's own function
}

// A Ruling is what the policy of one profile says to a [Question].
type Ruling struct {
	From       Origin   `json:"from"`   // of the policy
	Digest     string   `json:"digest"` // of its text: SHA-256, in hex
	Command    string   `json:"command,omitempty"`
	Allow      bool     `json:"allow"`
	Statements []string `json:"statements,omitempty"` // that decided: by their @id, else "line 3"
	Reason     string   `json:"reason,omitempty"`     // of a denial
}

func (r Ruling) String() string {
	what := "by the policy of " + r.From.String()
	if r.Command != "" {
		what = "command " + r.Command + " " + what
	}
	if r.Reason != "" {
		what += ": " + r.Reason
	}
	return what
}

const maxPolicy = 16 << 10

func policyProblem(text string) string {
	switch {
	case len(text) > maxPolicy:
		return fmt.Sprintf("Policy of %d bytes, the limit is %d", len(text), maxPolicy)
	case strings.ContainsRune(text, 0) || !utf8.ValidString(text):
		return "bad Policy: want UTF-8 without NUL"
	}
	return ""
}

// digestOf returns the digest of a policy, nil of none.
func digestOf(policy string) []byte {
	if policy == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(policy))
	return sum[:]
}
