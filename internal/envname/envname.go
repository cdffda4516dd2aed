// Package envname tells by which variables of the environment programs execute, load or trust something.
//
// No customer's setting has such a name (package identity), and no command or guest that has secrets gets one from the
// worker (package internal/runner).
package envname

import (
	"regexp"
	"slices"
	"strings"
	"sync"
)

// A * stands for any rest, or, in front, any beginning.
var reserved = []string{
	"_", "PATH", "HOME", "SHELL", "ENV", "IFS", "CDPATH", "PS4", "PROMPT_COMMAND", "TMPDIR", "BASH_*", "SHELLOPTS", "BASHOPTS", "ZDOTDIR", "FPATH",
	"EDITOR", "VISUAL", "PAGER", "BROWSER", "LESSOPEN", "LESSCLOSE", "MANPAGER", "*_ASKPASS", "XDG_*",
	"LD_*", "DYLD_*", "GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH", "NLSPATH", "MALLOC_*", "HOSTALIASES", "RESOLV_HOST_CONF", "RES_OPTIONS", "LOCALDOMAIN", "TERMINFO*",
	"GIT_SSH*", "GIT_CONFIG*", "GIT_EDITOR", "GIT_SEQUENCE_EDITOR", "GIT_PAGER", "GIT_EXEC_PATH", "GIT_EXTERNAL_DIFF", "GIT_PROXY_*", "GIT_TEMPLATE_DIR", "GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE",
	"GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_SSL_*", "GIT_ALLOW_PROTOCOL", "GIT_TRACE*", "GIT_CURL_VERBOSE", "RSYNC_RSH", "CVS_RSH", "SVN_SSH", "SVN_EDITOR", "HGRCPATH", "HGEDITOR", "HGMERGE",
	"TAR_OPTIONS", "VIMINIT", "GVIMINIT", "EXINIT", "GTK_MODULES", "GTK_PATH", "ERL_FLAGS", "ERL_AFLAGS", "ERL_ZFLAGS", "ERL_LIBS", "R_PROFILE*", "R_ENVIRON*", "R_LIBS*",
	"AWS_ENDPOINT_URL*", "AWS_CONFIG_FILE", "DOCKER_CONFIG", "ANSIBLE_CONFIG",
	"NODE_OPTIONS", "NODE_PATH", "NODE_EXTRA_CA_CERTS", "NODE_TLS_*", "NODE_REPL_*", "NPM_CONFIG_*", "YARN_RC_FILENAME", "ELECTRON_RUN_AS_NODE", "BUN_*", "DENO_*",
	"PYTHON*", "PIP_*", "UV_*", "PERL*", "RUBY*", "BUNDLE_*", "GEM_*", "PHPRC", "PHP_INI_SCAN_DIR", "LUA_*",
	"JAVA_*", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "IBM_JAVA_OPTIONS", "OPENJ9_JAVA_OPTIONS", "CLASSPATH", "MAVEN_*", "GRADLE_*", "DOTNET_*", "CORECLR_*", "COR_*", "RUSTC_*", "RUSTFLAGS", "CARGO_*",
	"GODEBUG", "GOTRACEBACK", "GOFLAGS", "GOROOT", "GOPATH", "GOPROXY", "GOENV", "GOTOOLCHAIN", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "CGO_*", "CC", "CXX", "MAKEFLAGS", "MAKEFILES",
	"*_PROXY", "SSL_CERT_*", "SSLKEYLOGFILE", "OPENSSL_*", "CURL_*", "WGETRC", "REQUESTS_CA_BUNDLE", "*_CA_BUNDLE", "TERRAFORM_CONFIG", "TF_CLI_*",
	"STEPWARD_*",
}

var harmless = []string{
	"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONFAULTHANDLER",
	"DOTNET_CLI_TELEMETRY_OPTOUT", "DOTNET_NOLOGO", "CARGO_TERM_COLOR", "PIP_NO_INPUT", "PIP_DISABLE_PIP_VERSION_CHECK",
}

// form is compiled when it is first used: see pattern of package identity.
var form = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Z_][A-Z0-9_]{0,127}$`) })

// Problem returns what is wrong with the name of a secret, or of a setting, or "". It becomes the name of a variable in the
// environment of a program.
func Problem(name string, setting bool) string {
	switch {
	case !form().MatchString(name):
		return "bad name: want 1 to 128 of A-Z, 0-9 and _, not starting with a digit"
	case setting && Harmless(name):
		return ""
	case Reserved(name):
		return "reserved name: programs execute, load or trust something by it"
	}
	return ""
}

// Reserved reports whether programs execute, load or trust something by a variable of that name, in upper or lower case.
func Reserved(name string) bool {
	name = strings.ToUpper(name)
	return slices.ContainsFunc(reserved, func(pattern string) bool { return matches(pattern, name) })
}

// Harmless reports whether the name is reserved because of others like it, and says itself no more than how a program
// behaves.
func Harmless(name string) bool { return slices.Contains(harmless, name) }

// Steers reports whether who chooses such a variable, of a program that has secrets, could have the program give them away.
// Of some it takes a directory that can be written to: unlessFixed. Directories that are writable by default steer nothing anew,
// and names of the tool runner's reach nobody.
func Steers(name string) (steers, unlessFixed bool) {
	switch {
	case name == "HOME", name == "TMPDIR", strings.HasPrefix(name, "XDG_"), strings.HasPrefix(name, "STEPWARD_"), Harmless(name):
		return false, false
	}
	return Reserved(name), slices.Contains(places, name)
}

var places = []string{"PATH", "JAVA_HOME", "GOROOT", "DOTNET_ROOT"}

func matches(pattern, name string) bool {
	if rest, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(name, rest)
	}
	if rest, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, rest)
	}
	return name == pattern
}
