package vault

import (
	"testing"
)

// What a reference means is decided here, before Vault is asked with a token that may read
// more (cases 14 and 23).
func TestPlaces(t *testing.T) {
	c := Config{Places: []Place{
		{Mount: "secret", Path: "{tenant}/"},
		{Mount: "team/kv", Path: "apps/{tenant}/prod/"},
		{Mount: "shared", Path: ""},
		{Mount: "database", Path: "creds/{tenant}-readonly", Dynamic: true},
	}}
	for _, test := range []struct {
		tenant, reference string
		want              target
	}{
		{"acme", "secret/acme/token", target{"secret", "acme/token", "", false, false}},
		{"acme", "secret/acme/a/b#password", target{"secret", "acme/a/b", "password", false, false}},
		{"acme", "team/kv/apps/acme/prod/x", target{"team/kv", "apps/acme/prod/x", "", false, false}},
		{"acme", "shared/ca#pem", target{"shared", "ca", "pem", false, false}},
		{"", "shared/ca", target{"shared", "ca", "", false, false}},
		{"acme", "database/creds/acme-readonly#username", target{"database", "creds/acme-readonly", "username", true, false}},
		{"acme", "secret/other/token", target{}},
		{"acme", "secret/acmex/token", target{}},
		{"acme", "secret/acme", target{}},
		{"acme", "secret/acme/", target{}},
		{"acme", "secret//acme/token", target{}},
		{"acme", "secret/acme//token", target{}},
		{"acme", "secret/acme/../other/token", target{}},
		{"acme", "secret/acme/..", target{}},
		{"acme", "secret/acme/x.", target{}},
		{"acme", "secret/acme/%2e%2e/other/token", target{}},
		{"acme", "secret/acme/to ken", target{}},
		{"acme", "secret/acme/token?version=1", target{}},
		{"acme", "secret/acme/t\u043eken", target{}},
		{"acme", "secret/acme/token#", target{}},
		{"acme", "secret/acme/token#a#b", target{}},
		{"acme", "secret/data/acme/token", target{}},
		{"acme", "/secret/acme/token", target{}},
		{"acme", "sys/wrapping/wrap", target{}},
		{"acme", "database/creds/other-readonly", target{}},
		{"acme", "database/creds/acme-readonly/x", target{}},
		{"acme-readonly", "database/creds/acme-readonly", target{}},
		{"acme/../other", "secret/acme/../other/token", target{}},
		{"..", "secret/../token", target{}},
		{"", "secret//token", target{}},
		{"a/b", "secret/a/b/token", target{}},
		{"acme", "", target{}},
	} {
		if got, ok := c.find(test.tenant, test.reference); got != test.want || ok != (test.want != target{}) {
			t.Errorf("%s of %q: %+v, %t", test.reference, test.tenant, got, ok)
		}
	}
}

func TestConfig(t *testing.T) {
	auth := Token{}
	for _, bad := range []Config{
		{Auth: auth}, {Address: "https://v"}, {Address: "ftp://v", Auth: auth}, {Address: "v:8200", Auth: auth}, {Address: "https://u:p@v", Auth: auth},
		{Address: "https://v", Auth: auth, Timeout: -1},
		{Address: "https://v", Auth: auth, Places: []Place{{Mount: "", Path: "x"}}},
		{Address: "https://v", Auth: auth, Places: []Place{{Mount: "secret/", Path: "x"}}},
		{Address: "https://v", Auth: auth, Places: []Place{{Mount: "secret", Path: "../x"}}},
		{Address: "https://v", Auth: auth, Places: []Place{{Mount: "secret", Path: "/"}}},
		{Address: "https://v", Auth: auth, Places: []Place{{Mount: "database", Path: "creds/x", Dynamic: true}}},
	} {
		if _, err := New(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}
