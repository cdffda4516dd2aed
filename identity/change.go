package identity

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
)

// A change is what the event of a [Profiles.Put] says of a field, as JSON has it, of a key or of the profile.
type change struct {
	Key   string          `json:"key,omitempty"` // empty: the profile's own
	Field string          `json:"field"`
	From  json.RawMessage `json:"from,omitempty"` // none: it was not given; of a knob, that there was one
	To    json.RawMessage `json:"to,omitempty"`
}

const (
	maxChanges = 192 << 10 // of an event, in bytes
	maxChange  = 600       // of a value: every reference is shorter
)

// weights has the fields by what depends on them: of an event that has not room for all, the last are left out.
var weights = []string{"policy", "scope", "min_level", "inject", "deny", "lock", "strict", "ref", "commands", "weak", "required", "unset", "version", "retarget", "file", "knob"}

// changesOf returns what is different in a profile, and how many changes there is no room for. before is nil if
// it is new.
func changesOf(before *Profile, pr Profile) (out []change, more int, err error) {
	if before == nil {
		before = &Profile{Scope: pr.Scope}
	}
	add := func(key string, old, now map[string]json.RawMessage) {
		all := maps.Clone(old)
		maps.Copy(all, now)
		for field := range all {
			if !bytes.Equal(old[field], now[field]) {
				out = append(out, change{key, field, short(old[field]), short(now[field])})
			}
		}
	}
	of := func(v any) (fields map[string]json.RawMessage, err error) {
		text, err := json.Marshal(v)
		if err == nil {
			err = json.Unmarshal(text, &fields)
		}
		return fields, err
	}
	type own struct {
		Scope  Scope  `json:"scope"`
		Policy string `json:"policy,omitempty"`
	}
	pairs := map[string][2]any{"": {own{before.Scope, hex.EncodeToString(digestOf(before.Policy))}, own{pr.Scope, hex.EncodeToString(digestOf(pr.Policy))}}}
	for _, name := range changed(before, pr) {
		old, now := before.Keys[name].plain(), pr.Keys[name].plain()
		if old.Knob != now.Knob {
			out = append(out, change{name, "knob", given(old.Knob), given(now.Knob)})
		}
		old.Knob, now.Knob = "", ""
		pairs[name] = [2]any{old, now}
	}
	for name, pair := range pairs {
		old, err := of(pair[0])
		if err != nil {
			return nil, 0, err
		}
		now, err := of(pair[1])
		if err != nil {
			return nil, 0, err
		}
		add(name, old, now)
	}
	slices.SortFunc(out, func(a, b change) int {
		return cmp.Or(cmp.Compare(slices.Index(weights, a.Field), slices.Index(weights, b.Field)), cmp.Compare(a.Key, b.Key))
	})
	size := 0
	for i, c := range out {
		if size += len(c.Key) + len(c.Field) + len(c.From) + len(c.To) + len(`{"key":"","field":"","from":,"to":},`); size > maxChanges {
			return out[:i], len(out) - i, nil
		}
	}
	return out, 0, nil
}

// given says of a knob that it was set, and not to what: people take settings for a place for passwords, and the
// record is for ever.
func given(knob string) json.RawMessage {
	if knob == "" {
		return nil
	}
	return json.RawMessage("true")
}

// short is a value, or, of one that is too long, its digest.
func short(value json.RawMessage) json.RawMessage {
	if len(value) <= maxChange {
		return value
	}
	sum := sha256.Sum256(value)
	return json.RawMessage(`"sha256:` + hex.EncodeToString(sum[:]) + `"`)
}
