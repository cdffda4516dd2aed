package identity

import (
	"regexp"
	"slices"
	"strings"
)

var envName = regexp.MustCompile(`^[A-Z_][A-Z0-9_]{0,127}$`)

// Names that make a program execute, load or trust something else. A customer's
// setting must not. A * stands for any rest, or, in front, any beginning.
var reserved = []string{
	"_", "PATH", "HOME", "SHELL", "ENV", "IFS", "CDPATH", "PS4", "PROMPT_COMMAND", "TMPDIR", "BASH_*", "SHELLOPTS", "BASHOPTS", "ZDOTDIR", "FPATH",
	"EDITOR", "VISUAL", "PAGER", "BROWSER", "LESSOPEN", "LESSCLOSE", "MANPAGER", "*_ASKPASS", "XDG_*",
	"LD_*", "DYLD_*", "GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH", "NLSPATH", "MALLOC_*", "HOSTALIASES", "RESOLV_HOST_CONF", "LOCALDOMAIN", "TERMINFO*",
	"GIT_SSH*", "GIT_CONFIG*", "GIT_EDITOR", "GIT_SEQUENCE_EDITOR", "GIT_PAGER", "GIT_EXEC_PATH", "GIT_EXTERNAL_DIFF", "GIT_PROXY_*", "GIT_TEMPLATE_DIR", "GIT_DIR", "GIT_SSL_*", "GIT_ALLOW_PROTOCOL", "RSYNC_RSH", "CVS_RSH",
	"NODE_OPTIONS", "NODE_PATH", "NODE_EXTRA_CA_CERTS", "NODE_TLS_*", "NODE_REPL_*", "NPM_CONFIG_*", "YARN_RC_FILENAME", "ELECTRON_RUN_AS_NODE", "BUN_*", "DENO_*",
	"PYTHON*", "PIP_*", "UV_*", "PERL*", "RUBY*", "BUNDLE_*", "GEM_*", "PHPRC", "PHP_INI_SCAN_DIR", "LUA_*",
	"JAVA_*", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "MAVEN_*", "GRADLE_*", "DOTNET_*", "CORECLR_*", "COR_*", "RUSTC_*", "RUSTFLAGS", "CARGO_*",
	"GODEBUG", "GOFLAGS", "GOROOT", "GOPATH", "GOPROXY", "GOENV", "GOTOOLCHAIN", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "CGO_*", "CC", "CXX", "MAKEFLAGS", "MAKEFILES",
	"*_PROXY", "SSL_CERT_*", "SSLKEYLOGFILE", "OPENSSL_*", "CURL_*", "WGETRC", "REQUESTS_CA_BUNDLE", "*_CA_BUNDLE", "TERRAFORM_CONFIG", "TF_CLI_*",
	"STEPWARD_*",
}

// Of those, what is harmless as a knob.
var reservedKnobs = []string{
	"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONFAULTHANDLER",
	"DOTNET_CLI_TELEMETRY_OPTOUT", "DOTNET_NOLOGO", "CARGO_TERM_COLOR", "PIP_NO_INPUT", "PIP_DISABLE_PIP_VERSION_CHECK",
}

// CheckName returns what is wrong with a name that a step lists, or nil: a
// *[ProfileError]. It becomes the name of a variable in the environment of a
// program, so those are refused that programs execute, load or trust something by.
func CheckName(name string) error {
	if reason := badName(name, true); reason != "" {
		return &ProfileError{Key: name, Reason: reason}
	}
	return nil
}

func badName(name string, knob bool) string {
	switch {
	case !envName.MatchString(name):
		return "bad name: want 1 to 128 of A-Z, 0-9 and _, not starting with a digit"
	case knob && slices.Contains(reservedKnobs, name):
		return ""
	case slices.ContainsFunc(reserved, func(pattern string) bool { return matches(pattern, name) }):
		return "reserved name: programs execute, load or trust something by it"
	}
	return ""
}

func matches(pattern, name string) bool {
	if rest, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(name, rest)
	}
	if rest, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, rest)
	}
	return name == pattern
}
