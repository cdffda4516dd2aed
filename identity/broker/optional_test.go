package broker_test

import (
	"strings"
	"testing"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
)

// What an attempt can do without, and does not get, it goes on without, and there is an event that says why: a
// reference to nothing, and a level that this set-up is not. What it cannot do without is the control.
func TestOptionalIsWithheld(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN", "OTHER?")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	link := f.serve()
	for _, c := range []struct {
		key  identity.Key
		why  string
		code string // of the refusal, if it is required
	}{
		{identity.Key{Ref: "mem://typo"}, "no such secret", "no such secret"},
		{identity.Key{Ref: "mem://x", MinLevel: identity.L3}, "demands level L3", "demands level L3"},
	} {
		f.put("OTHER", c.key)
		o, err := get(t.Context(), link, f.claim)
		if err != nil || len(o.Items) != 1 || o.Items[0].Name != "DEPLOY_TOKEN" {
			t.Fatalf("%+v: %+v, %v", c.key, o, err)
		}
		if w := f.last(audit.KeyWithheld); w.Name != "OTHER" || !strings.Contains(w.Error, c.why) {
			t.Errorf("%+v: the event says %+v", c.key, w)
		}
		c.key.Required = true
		f.put("OTHER", c.key)
		if o, err := get(t.Context(), link, f.claim); err == nil || !strings.Contains(err.Error(), c.code) {
			t.Errorf("%+v: %+v, %v", c.key, o, err)
		}
	}
}
