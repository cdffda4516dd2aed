package identity

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stepward/stepward/internal/hostport"
)

// An Inject keeps the value of a key out of the sandbox. What the step's function or its commands get
// is a placeholder, a new one for each attempt. In a request over HTTPS to one of Hosts the broker puts the
// value in its place, on the way out: where the header has the placeholder for its credential, alone or after
// the name of a scheme and a space, or as the user or the password of Basic. Anywhere else, and at any other
// host, it is a word that means nothing. What the host answers is redacted.
//
// A narrower profile that sets the name may say other Hosts; that it says none takes nothing away, and a run says none.
//
// The sandbox gets certificates that it can trust the broker by, in variables such as
// SSL_CERT_FILE, beside those of its image. A program that trusts others, or pins what the host has,
// does not get through.
type Inject struct {
	// Hosts are names, with a port or for 443; exact, and none stands for others. The Network of the step's
	// Spec has to allow them. Up to 16.
	Hosts []string `json:"hosts"`

	Header string `json:"header,omitempty"` // defaults to Authorization
	Prefix string `json:"prefix,omitempty"` // of the placeholder, for programs that look at it: "ghp_"; up to 32 of A-Z, a-z, 0-9, _ and -
}

const maxInjectHosts = 16

var (
	headerForm   = pattern(`^[A-Za-z][A-Za-z0-9-]{0,63}$`)
	placeholders = pattern(`^[A-Za-z0-9_-]{0,32}$`)

	// Headers that say how a message is read, or where it goes: none is a credential.
	framing = []string{
		"Host", "Content-Length", "Transfer-Encoding", "Te", "Trailer", "Connection", "Keep-Alive", "Upgrade", "Expect", "Accept-Encoding",
		"Proxy-Authorization", "Proxy-Connection",
	}
)

// problem returns what is wrong with it, or "": see that of a Key.
func (i Inject) problem() string {
	switch {
	case len(i.Hosts) == 0 || len(i.Hosts) > maxInjectHosts:
		return fmt.Sprintf("Inject has %d Hosts, want 1 to %d", len(i.Hosts), maxInjectHosts)
	case i.Header != "" && (!headerForm().MatchString(i.Header) || slices.ContainsFunc(framing, func(h string) bool { return strings.EqualFold(h, i.Header) })):
		return "bad Header of Inject: want the name of one that has a credential"
	case !placeholders().MatchString(i.Prefix):
		return "bad Prefix of Inject: want up to 32 letters, digits, _ and -"
	}
	for n, h := range i.Hosts {
		if _, _, ok := hostport.Parse(h); !ok {
			return fmt.Sprintf("bad Hosts[%d] of Inject: want a name, or name:port; no address, no *", n)
		}
	}
	return ""
}
