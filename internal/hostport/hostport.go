// Package hostport reads the hosts of an identity.Inject: what checks a profile, what binds a run and what sends the
// request read them alike.
package hostport

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// label is compiled when it is first used: see pattern of package identity.
var label = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`) })

// Parse reads a host: a name in any case, with a port or for 443. ok is false if it may mean something else to somebody.
func Parse(host string) (name string, port int, ok bool) {
	name, text, given := strings.Cut(strings.ToLower(host), ":")
	port = 443
	if given {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 || text[0] == '0' || text[0] == '+' {
			return "", 0, false
		}
		port = int(n)
	}
	labels := strings.Split(name, ".")
	if _, err := netip.ParseAddr(name); err == nil || len(name) > 253 || port == 80 {
		return "", 0, false
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") { // another reader's address
		return "", 0, false
	}
	return name, port, !slices.ContainsFunc(labels, func(l string) bool { return !label().MatchString(l) })
}

// All returns hosts in lower case, each with its port.
func All(hosts []string) []string {
	out := make([]string, 0, len(hosts))
	for _, h := range hosts {
		name, port, _ := Parse(h)
		out = append(out, name+":"+strconv.Itoa(port))
	}
	return out
}
