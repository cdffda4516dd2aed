package sops

import (
	"slices"
	"testing"
)

func TestFind(t *testing.T) {
	for _, test := range []struct {
		tenant, reference string
		file, format      string
		keys              []string
	}{
		{"acme", "app.yaml#a", "acme/app.yaml", "yaml", []string{"a"}},
		{"acme", "dir/app.yml#a.b", "acme/dir/app.yml", "yaml", []string{"a", "b"}},
		{"acme", "app.env#TOKEN", "acme/app.env", "dotenv", []string{"TOKEN"}},
		{"acme", "prod.app.ini#s.k", "acme/prod.app.ini", "ini", []string{"s", "k"}},
		{"acme", "key.pem", "acme/key.pem", "binary", nil},
		{"acme", "app.yaml", "", "", nil},
		{"acme", "app.yaml#", "", "", nil},
		{"acme", "app.yaml#a..b", "", "", nil},
		{"acme", "app.yaml#a#b", "", "", nil},
		{"acme", "key.pem#a", "", "", nil},
		{"acme", "../other/key.pem", "", "", nil},
		{"acme", ".sops.yaml#a", "", "", nil},
		{"acme", "a//key.pem", "", "", nil},
		{"acme", "/etc/passwd", "", "", nil},
		{"acme", "key.pem.", "", "", nil},
		{"acme", `..\key.pem`, "", "", nil},
		{"acme", "", "", "", nil},
		{"", "key.pem", "", "", nil},
		{"..", "key.pem", "", "", nil},
		{"a/b", "key.pem", "", "", nil},
		{"-x", "-key.pem", "-x/-key.pem", "binary", nil}, // no argument of the program
	} {
		got, ok := find(test.tenant, test.reference)
		if ok != (test.file != "") || got.file != test.file && ok || got.format != test.format && ok || !slices.Equal(got.keys, test.keys) && ok {
			t.Errorf("%s of %q: %+v, %t", test.reference, test.tenant, got, ok)
		}
	}
}
