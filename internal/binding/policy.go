package binding

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/within"
)

// A Policy is one that applied when a run was enqueued, and goes on to, whatever
// became of its profile.
type Policy struct {
	From   identity.Origin `json:"from"`
	Digest string          `json:"digest"`
}

// Recall reads the texts of the policies that profiles have, and of those that a run was bound to: for [Binding.Start].
func (v *View) Recall(ctx context.Context, tx pgx.Tx, q *db.Queries, b Binding) error {
	digests := []string{}
	for _, p := range v.Profiles {
		digests = add(digests, p.Digest)
	}
	for _, n := range b.Policies {
		digests = add(digests, n.Digest)
	}
	var lack [][]byte
	for _, text := range digests {
		if digest, err := hex.DecodeString(text); err == nil && text != "" && v.policy(text) == "" {
			lack = append(lack, digest)
		}
	}
	if len(lack) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, q.PolicyGet, lack)
	if err != nil {
		return err
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	v.recalled = append(v.recalled, texts...)
	return err
}

// digestOf returns the digest of a policy, "" of none.
func digestOf(policy string) string {
	if policy == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(policy))
	return hex.EncodeToString(sum[:])
}

// policy returns the text with a digest, "" if it is nowhere.
func (v View) policy(digest string) string {
	is := func(text string) bool { return text != "" && digestOf(text) == digest }
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
func (v View) policiesIn(place identity.Scope) (out []Policy) {
	for _, p := range v.Profiles {
		scope := within.Scope(p.Scope)
		scope.Step = ""
		digest := p.Digest
		if digest == "" {
			digest = digestOf(p.Policy)
		}
		if digest != "" && scope.Covers(within.Scope(place)) {
			from := identity.Origin{Breadth: within.Scope(p.Scope).Breadth().String(), Profile: p.Name, ID: p.ID, Scope: p.Scope}
			out = append(out, Policy{From: from, Digest: digest})
		}
	}
	slices.SortFunc(out, func(a, b Policy) int {
		return cmp.Or(cmp.Compare(within.Scope(a.From.Scope).Breadth(), within.Scope(b.From.Scope).Breadth()), cmp.Compare(a.From.Profile, b.From.Profile))
	})
	return out
}

// A rule is a policy that the keys of a step have to pass.
type rule struct {
	Policy
	asked  identity.Policy
	broken string // why it cannot be asked
}

// rules returns the policies that apply to a step: those of now, and those of when its run
// was bound. A policy that is both is asked once.
func (v View) rules(b Binding, place identity.Scope) (out []rule) {
	for _, n := range slices.Concat(v.policiesIn(place), b.Policies) {
		if !within.Scope(n.From.Scope).Covers(within.Scope(place)) || slices.ContainsFunc(out, func(r rule) bool { return r.Digest == n.Digest }) {
			continue
		}
		r := rule{Policy: n}
		var err error
		switch text := v.policy(n.Digest); {
		case text == "":
			r.broken = "its text is not on record"
		case v.Engine == nil:
			r.broken = "it cannot be evaluated here: identity.Options.Engine is not set"
		default:
			if r.asked, err = read(v.Engine, text); err != nil {
				r.asked, r.broken = nil, "it cannot be evaluated: "+err.Error()
			}
		}
		out = append(out, r)
	}
	return out
}

// read has an engine read a policy, whatever it does.
func read(engine identity.Engine, text string) (p identity.Policy, err error) {
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
func (r rule) decide(q identity.Question) (out identity.Ruling) {
	defer func() {
		if v := recover(); v != nil {
			out = identity.Ruling{Reason: "it cannot be evaluated: " + errEngine.Error()}
		}
		out.From, out.Digest, out.Command = r.From, r.Digest, q.Command
	}()
	if r.asked == nil {
		return identity.Ruling{Reason: r.broken}
	}
	return r.asked.Decide(q)
}

// judge asks all policies about a key. Commands that one of them denies are taken from it; it
// is denied itself when its step's function is, or when no command of a tool step is left.
func judge(all []rule, q identity.Question, tool bool, g *identity.Resolved) error {
	if len(all) == 0 {
		return nil
	}
	q.Name, q.Key, q.From = g.Name, g.Key, g.From
	ask := func(command string) (denied *identity.Ruling) {
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
		return &identity.KeyError{Step: q.Place.Step, Key: g.Name, Detail: detail, Err: identity.ErrDenied, Rulings: g.Rulings}
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
