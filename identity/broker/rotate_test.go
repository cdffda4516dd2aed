package broker_test

import (
	"strings"
	"testing"

	"github.com/stepward/stepward/identity"
)

// A key that was revoked, and is current in a version that its store has not, is not refused as revoked: what lacks is
// said, whether the version is in the profile or the store gives another one. When the store has it, it is given.
func TestRotatedToNone(t *testing.T) {
	const first, second = "the first value", "the second value"
	for name, build := range map[string]func(*testing.T) *shelf{"file": files, "vault": vaulted} {
		t.Run(name, func(t *testing.T) {
			s, f := build(t), newFixture(t, "DEPLOY_TOKEN")
			f.cfg.Stores[name] = s
			s.put(t, "deploy", first)
			key := identity.Key{Ref: s.ref("deploy")}
			f.put("DEPLOY_TOKEN", key)
			link := f.serve()
			want := func(what, reasoned, says string) {
				t.Helper()
				o, err := get(t.Context(), link, f.claim)
				switch {
				case reasoned == "" && (err != nil || len(o.Items) != 1 || string(o.Items[0].Value) != says):
					t.Errorf("%s: got %+v, %v", what, o.Items, err)
				case reasoned != "" && (reason(err) != reasoned || !strings.Contains(err.Error(), says)):
					t.Errorf("%s: got %v, reason %q", what, err, reason(err))
				}
			}
			if err := f.profiles.Rotate(t.Context(), "acme", "DEPLOY_TOKEN", "9"); err != nil {
				t.Fatal(err)
			}
			want("on record only, of what is not revoked", "", first)
			if err := f.profiles.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "DEPLOY_TOKEN", State: identity.Soft}); err != nil {
				t.Fatal(err)
			}
			want("nothing is current", "revoked", "")
			if err := f.profiles.Rotate(t.Context(), "acme", "DEPLOY_TOKEN", "2"); err != nil {
				t.Fatal(err)
			}
			want("another is current", "pin", `version "2" is current, and the store gives version "1"`)
			key.Version = "2"
			f.put("DEPLOY_TOKEN", key)
			want("the profile says which", "pin", "no such version")
			key.Version = "1"
			f.put("DEPLOY_TOKEN", key)
			want("the profile says which was revoked", "revoked", "")
			key.Version = ""
			f.put("DEPLOY_TOKEN", key)
			s.put(t, "deploy", second)
			want("it is there", "", second)
		})
	}
}
