package identity

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/db"
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
	Level   Level  // of the key, see Key.LevelAt: how far it would be kept from the worker
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

// A BoundPolicy is one that applied when a run was enqueued, and goes on to, whatever
// became of its profile.
type BoundPolicy struct {
	From   Origin `json:"from"`
	Digest string `json:"digest"`
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

// Recall reads the texts of policies that a run was bound to and that no profile has any
// more: for [Binding.Start].
func (v *View) Recall(ctx context.Context, tx pgx.Tx, q *db.Queries, b Binding) error {
	var gone [][]byte
	for _, n := range b.Policies {
		if digest, err := hex.DecodeString(n.Digest); err == nil && v.policy(n.Digest) == "" {
			gone = append(gone, digest)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, q.PolicyGet, gone)
	if err != nil {
		return err
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	v.recalled = append(v.recalled, texts...)
	return err
}

// policy returns the text with a digest, "" if it is nowhere.
func (v View) policy(digest string) string {
	is := func(text string) bool { return text != "" && hex.EncodeToString(digestOf(text)) == digest }
	for _, p := range v.Profiles {
		if is(p.Policy) {
			return p.Policy
		}
	}
	if i := slices.IndexFunc(v.recalled, is); i >= 0 {
		return v.recalled[i]
	}
	return ""
}

// policiesIn returns the policies that apply to some step of a run.
func (v View) policiesIn(place Scope) (out []BoundPolicy) {
	for _, p := range v.Profiles {
		scope := p.Scope
		scope.Step = ""
		digest := p.digest
		if digest == nil {
			digest = digestOf(p.Policy)
		}
		if digest != nil && scope.covers(place) {
			out = append(out, BoundPolicy{From: p.origin(), Digest: hex.EncodeToString(digest)})
		}
	}
	slices.SortFunc(out, func(a, b BoundPolicy) int {
		return cmp.Or(cmp.Compare(a.From.Scope.breadth(), b.From.Scope.breadth()), cmp.Compare(a.From.Profile, b.From.Profile))
	})
	return out
}

// A rule is a policy that the keys of a step have to pass.
type rule struct {
	BoundPolicy
	policy Policy
	broken string // why it cannot be asked
}

// rules returns the policies that apply to a step: those of now, and those of when its run
// was bound. A policy that is both is asked once.
func (v View) rules(b Binding, place Scope) (out []rule) {
	for _, n := range slices.Concat(v.policiesIn(place), b.Policies) {
		if !n.From.Scope.covers(place) || slices.ContainsFunc(out, func(r rule) bool { return r.Digest == n.Digest }) {
			continue
		}
		r := rule{BoundPolicy: n}
		var err error
		switch text := v.policy(n.Digest); {
		case text == "":
			r.broken = "its text is not on record"
		case v.Engine == nil:
			r.broken = "it cannot be evaluated here: identity.Options.Engine is not set"
		default:
			if r.policy, err = read(v.Engine, text); err != nil {
				r.policy, r.broken = nil, "it cannot be evaluated: "+err.Error()
			}
		}
		out = append(out, r)
	}
	return out
}

// read has an engine read a policy, whatever it does.
func read(engine Engine, text string) (p Policy, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = errEngine
		}
	}()
	return engine(text)
}

// errEngine does not say what an engine's panic had in it.
var errEngine = errors.New("its engine panicked")

// decide denies what an engine panics at.
func (r rule) decide(q Question) (out Ruling) {
	defer func() {
		if v := recover(); v != nil {
			out = Ruling{Reason: "it cannot be evaluated: " + errEngine.Error()}
		}
		out.From, out.Digest, out.Command = r.From, r.Digest, q.Command
	}()
	if r.policy == nil {
		return Ruling{Reason: r.broken}
	}
	return r.policy.Decide(q)
}

// judge asks all policies about a key. Commands that one of them denies are taken from it; it
// is denied itself when its step's function is, or when no command of a tool step is left.
func judge(all []rule, q Question, tool bool, g *Resolved) error {
	if len(all) == 0 {
		return nil
	}
	q.Name, q.Key, q.From = g.Name, g.Key, g.From
	ask := func(command string) (denied *Ruling) {
		q.Command = command
		for _, r := range all {
			ruling := r.decide(q)
			g.Rulings = append(g.Rulings, ruling)
			if !ruling.Allow && denied == nil {
				denied = &ruling
			}
		}
		return denied
	}
	fail := func(detail string) error {
		return &KeyError{Step: q.Place.Step, Key: g.Name, Detail: detail, Err: ErrDenied, Rulings: g.Rulings}
	}
	if !tool {
		if denied := ask(""); denied != nil {
			return fail(denied.String())
		}
	}
	left, why := []string{}, "no command may have it, and so no policy permits it to one"
	for _, c := range g.Key.Commands {
		if denied := ask(c); denied == nil {
			left = append(left, c)
		} else {
			why = denied.String()
		}
	}
	g.Key.Commands = left
	if tool && len(left) == 0 {
		return fail(why)
	}
	return nil
}
