package identity_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/envname"
)

// What is in no profile, and the culprit that its error names.
func TestProfileCheck(t *testing.T) {
	many := keys{}
	for i := range 201 {
		many[fmt.Sprint("K", i)] = ref("a")
	}
	key := func(name string, k identity.Key) identity.Profile {
		return identity.Profile{Name: "acme", Scope: tenant, Keys: keys{name: k}}
	}
	for what, c := range map[string]struct {
		p   identity.Profile
		key string
	}{
		"no name":              {identity.Profile{}, ""},
		"name with a space":    {identity.Profile{Name: "a b"}, ""},
		"scope without tenant": {identity.Profile{Name: "a", Scope: identity.Scope{Project: "web"}}, ""},
		"long tenant":          {identity.Profile{Name: "a", Scope: identity.Scope{Tenant: strings.Repeat("a", 201)}}, ""},
		"NUL in a project":     {identity.Profile{Name: "a", Scope: identity.Scope{Tenant: "a", Project: "\x00"}}, ""},
		"too many":             {identity.Profile{Name: "a", Keys: many}, ""},
		"nothing":              {key("K", identity.Key{}), "K"},
		"two":                  {key("K", identity.Key{Ref: "file://a", Unset: true}), "K"},
		"denied secret":        {key("K", identity.Key{Ref: "file://a", Deny: true}), "K"},
		"version of a knob":    {key("K", identity.Key{Knob: "a", Version: "1"}), "K"},
		"bad version":          {key("K", identity.Key{Ref: "file://a", Version: "a b"}), "K"},
		"level":                {key("K", identity.Key{Ref: "file://a", MinLevel: 9}), "K"},
		"knob with NUL":        {key("K", identity.Key{Knob: "a\x00"}), "K"},
		"long knob":            {key("K", identity.Key{Knob: strings.Repeat("a", 4097)}), "K"},
		"command with a blank": {key("K", identity.Key{Ref: "file://a", Commands: []string{"rm -rf"}}), "K"},
		"relative command":     {key("K", identity.Key{Ref: "file://a", Commands: []string{"./git"}}), "K"},
		"dotted command":       {key("K", identity.Key{Ref: "file://a", Commands: []string{"/usr/../bin/git"}}), "K"},
		"any command":          {key("K", identity.Key{Ref: "file://a", Commands: []string{"*"}}), "K"},
		"lower case":           {key("https_proxy", ref("a")), "https_proxy"},
		"digit first":          {key("1K", ref("a")), "1K"},
		"long":                 {key("K"+strings.Repeat("A", 128), ref("a")), "K" + strings.Repeat("A", 128)},
		"look-alike":           {key("ΚEY", ref("a")), "ΚEY"}, // a Greek letter
		"no reference":         {key("K", identity.Key{Ref: "deploy-token"}), "K"},
		"no path":              {key("K", identity.Key{Ref: "file://"}), "K"},
		"other tenant":         {key("K", ref("acme/../other/token")), "K"},
		"here":                 {key("K", ref("./token")), "K"},
		"encoded":              {key("K", ref("acme/%2e%2e/other")), "K"},
		"absolute":             {key("K", ref("/etc/shadow")), "K"},
		"backslash":            {key("K", ref(`acme\elsewhere`)), "K"},
		"wildcard":             {key("K", ref("acme/*")), "K"},
		"look-alike path":      {key("K", ref("acmе/token")), "K"}, // a Cyrillic letter
		"field that leaves":    {key("K", ref("acme#../other")), "K"},
		"line break":           {key("K", ref("a\n")), "K"},
		"long path":            {key("K", ref(strings.Repeat("a", 513))), "K"},
		"scheme":               {key("K", identity.Key{Ref: "File://a"}), "K"},
	} {
		t.Run(what, func(t *testing.T) {
			var e *identity.ProfileError
			if err := c.p.Check(); !errors.As(err, &e) || e.Key != c.key || e.Profile != c.p.Name {
				t.Errorf("got %v", err)
			}
		})
	}
	good := identity.Profile{Name: "acme/web", Scope: place, Keys: keys{
		"DEPLOY_TOKEN":     {Ref: "vault://kv/acme/deploy.v2#token", Commands: []string{"deploy", "/usr/bin/git"}, Version: "12", MinLevel: identity.L2},
		"AWS_KEY":          {Ref: "awssecrets://arn:aws:secretsmanager:eu-west-1:123456789012:secret:acme/deploy-a1b2c3", File: true, Retarget: true},
		"PYTHONUNBUFFERED": {Knob: "1"},
		"REGION":           {Knob: "eu", Lock: true},
		"OLD":              {Unset: true},
		"NEVER":            {Deny: true},
	}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	text, err := json.Marshal(good.Keys)
	if err != nil {
		t.Fatal(err)
	}
	back := keys{}
	if err := json.Unmarshal(text, &back); err != nil || fmt.Sprint(back) != fmt.Sprint(good.Keys) {
		t.Errorf("got %v, %v", back, err)
	}
}

// Names by which programs execute, load or trust something are refused, as
// secrets and as knobs.
// What is refused may be a secret, in a place for something else: neither it nor its length is in the error.
func TestProfileCheckRepeatsNothing(t *testing.T) {
	const value = "s3cr3t !"
	long := strings.Repeat(value, 700)
	for name, k := range map[string]identity.Key{
		"a value":       {Ref: value},
		"a URL":         {Ref: "postgres://admin:" + value + "@db/app"},
		"dots":          {Ref: "vault://s3cr3t/.."},
		"a long value":  {Ref: long},
		"a long knob":   {Knob: long},
		"a NUL":         {Knob: value + "\x00"},
		"a version":     {Ref: "file://a", Version: value},
		"a command":     {Ref: "file://a", Commands: []string{"curl", "curl -u " + value}},
		"a header":      {Ref: "file://a", Inject: &identity.Inject{Hosts: []string{"example.com"}, Header: "Authorization: " + value}},
		"a placeholder": {Ref: "file://a", Inject: &identity.Inject{Hosts: []string{"example.com"}, Prefix: value}},
		"a host":        {Ref: "file://a", Inject: &identity.Inject{Hosts: []string{"x:" + value + "@example.com"}}},
	} {
		err := identity.Profile{Name: "p", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{"TOKEN": k}}.Check()
		if err == nil || strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), strconv.Itoa(len(long))) {
			t.Errorf("%s: %.200v", name, err)
		}
	}
}

func TestReservedNames(t *testing.T) {
	for _, name := range []string{
		"PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "NODE_OPTIONS", "PYTHONPATH", "PYTHONSTARTUP", "PERL5LIB", "PERL5OPT", "RUBYOPT", "BASH_ENV", "ENV", "IFS",
		"GIT_SSH", "GIT_SSH_COMMAND", "GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_0", "GIT_ASKPASS", "SSH_ASKPASS", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "HOME", "SHELL", "GODEBUG", "GOTRACEBACK", "GIT_TRACE_CURL", "JAVA_TOOL_OPTIONS", "STEPWARD_RUNNER", "_",
		"TAR_OPTIONS", "VIMINIT", "HGRCPATH", "ERL_FLAGS", "SVN_SSH", "GTK_MODULES", "R_PROFILE_USER", "IBM_JAVA_OPTIONS", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CONFIG_FILE", "ANSIBLE_CONFIG", "DOCKER_CONFIG", "GIT_TRACE",
	} {
		if envname.Problem(name, true) == "" {
			t.Errorf("%s is accepted", name)
		}
		for _, k := range []identity.Key{{Ref: "file://a"}, {Knob: "a"}} {
			if err := (identity.Profile{Name: "a", Keys: keys{name: k}}).Check(); err == nil {
				t.Errorf("%s is accepted as %v", name, k)
			}
		}
	}
	for _, name := range []string{"DEPLOY_TOKEN", "_X", "GIT_TOKEN", "GIT_AUTHOR_NAME", "NPM_TOKEN", "KUBECONFIG", "AWS_ACCESS_KEY_ID", "PATHS", "PYTHONUNBUFFERED"} {
		if reason := envname.Problem(name, true); reason != "" {
			t.Errorf("%s: %s", name, reason)
		}
	}
	if err := (identity.Profile{Name: "a", Keys: keys{"PYTHONUNBUFFERED": ref("a")}}).Check(); err == nil {
		t.Error("a secret with the name of a knob")
	}
}

func FuzzSplitRef(f *testing.F) {
	for _, s := range []string{"file://deploy-token", "vault://kv/a#b", "file://../a", "a://b//c", "://", "x://#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		scheme, path, err := identity.SplitRef(ref)
		if err != nil {
			return
		}
		if scheme+"://"+path != ref {
			t.Errorf("%q is %q and %q", ref, scheme, path)
		}
		for _, part := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == '#' }) {
			if part == "." || part == ".." {
				t.Errorf("%q has the part %q", ref, part)
			}
		}
		if strings.ContainsAny(path, "%\\*? \x00") || strings.Contains(path, "//") || strings.HasPrefix(path, "/") {
			t.Errorf("%q has the path %q", ref, path)
		}
	})
}
