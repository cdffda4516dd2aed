package launch_test

import (
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/launch"
)

// What a list says, and no more than that, may be named.
func TestImages(t *testing.T) {
	one, other := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	for _, c := range []struct {
		list    string
		allowed []string
		refused []string
	}{
		{"", nil, []string{"app", "app:1", "*", one}},
		{"app", []string{"app", "app:1", "app@" + one, "app:1@" + one}, []string{"apps", "app/x", "x/app", "docker.io/library/app", "app ", "APP"}},
		{"app:1", []string{"app:1"}, []string{"app", "app:2", "app@" + one, "app:1@" + one}},
		{"app@" + one, []string{"app@" + one, "app:2@" + one}, []string{"app", "app:1", "app@" + other, "app:1@" + other, "x@" + one, one}},
		{"app:1@" + one, []string{"app:1@" + one, "app@" + one}, []string{"app:1", "app@" + other}},
		{"host:5000/team/*", []string{"host:5000/team/a", "host:5000/team/b:1"}, []string{"host:5000/team/a/b", "host:5000/other/a", "host/team/a", "host:5000/team/../other/a"}},
		{"host:5000/app", []string{"host:5000/app:3"}, []string{"host:3/app", "host"}},
		{"*", []string{"app:1"}, []string{"cafe", "CAFE", "c0ffee0123", one, "sha256:c0", "sha256:c0ffee", "team/app"}},
		{"cafe", []string{"cafe", "cafe:1"}, []string{"cafe0"}},
		{one, []string{one}, []string{other}},
	} {
		images := launch.Images(strings.Fields(c.list))
		if err := images.Check(); err != nil {
			t.Errorf("%q: %v", c.list, err)
		}
		for _, image := range c.allowed {
			if !images.Allow(image) {
				t.Errorf("%q refuses %q", c.list, image)
			}
		}
		for _, image := range c.refused {
			if images.Allow(image) {
				t.Errorf("%q allows %q", c.list, image)
			}
		}
	}
	for _, bad := range []string{"", ":1", "@" + one, "app@sha256:1", "app@x", "[", "a b", "a,b"} {
		if err := (launch.Images{"app", bad}).Check(); err == nil || !strings.Contains(err.Error(), "no image") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
