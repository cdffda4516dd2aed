package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A Policy says which endpoints may be reached. The zero value denies all.
type Policy struct {
	rules []rule
}

// A rule allows a name, all names below one, or addresses.
type rule struct {
	name   string
	below  bool         // "*.name"
	prefix netip.Prefix // valid if it is about addresses
	port   int          // 0: all
}

// Parse reads the entries of an allow-list: "host", "host:port", "*.host",
// "*.host:port", an address as a host, or a CIDR. No port means every port. It
// says which entry is wrong.
func Parse(allow []string) (*Policy, error) {
	pol := &Policy{}
	for _, entry := range allow {
		r, err := parseRule(entry)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", entry, err)
		}
		pol.rules = append(pol.rules, r)
	}
	return pol, nil
}

func parseRule(s string) (rule, error) {
	if s == "" {
		return rule{}, errors.New("it is empty")
	}
	if strings.Contains(s, "://") {
		return rule{}, errors.New("it is a URL; an entry is a host, a host:port or a CIDR")
	}
	if strings.Contains(s, "/") {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			return rule{}, err
		}
		if prefix != prefix.Masked() {
			return rule{}, fmt.Errorf("it has bits beyond its length; %s would be the network", prefix.Masked())
		}
		if a := prefix.Addr(); a.Is4In6() {
			if prefix.Bits() < 96 {
				return rule{}, errors.New("it has IPv4 addresses, among others; write them as such")
			}
			prefix = netip.PrefixFrom(a.Unmap(), prefix.Bits()-96)
		}
		return rule{prefix: prefix}, nil
	}
	var r rule
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (strings.Count(s, ":") == 1 || strings.HasPrefix(s, "[") && s[i-1] == ']') {
		port, err := parsePort(s[i+1:])
		if err != nil {
			return rule{}, err
		}
		s, r.port = s[:i], port
	}
	s, r.below = strings.CutPrefix(s, "*.")
	h, err := parseHost(s)
	switch {
	case err != nil:
		return rule{}, err
	case h.addr.IsValid() && r.below:
		return rule{}, errors.New("there is nothing below an address")
	case h.addr.IsValid():
		r.prefix = netip.PrefixFrom(h.addr, h.addr.BitLen())
	default:
		r.name = h.name
	}
	return r, nil
}

func parsePort(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, fmt.Errorf("%q is no port", s)
	}
	return int(n), nil
}

// Empty reports whether nothing at all is allowed.
func (pol *Policy) Empty() bool { return pol == nil || len(pol.rules) == 0 }

// permits says why a program may not go to the host, "" if it may. What a name
// resolves to is up to permitsAddr; a name that is not permitted must not be
// resolved, which would tell it to a stranger's name server.
func (pol *Policy) permits(h host, port int) string {
	if h.addr.IsValid() {
		return pol.permitsAddr(h, h.addr, port)
	}
	other := 0
	for _, r := range pol.rules {
		switch {
		case r.name == "":
		case !r.below && r.name != h.name:
		case r.below && !strings.HasSuffix(h.name, "."+r.name):
		case r.port != 0 && r.port != port:
			other = r.port
		default:
			return ""
		}
	}
	if other != 0 {
		return fmt.Sprintf("of this host only port %d is allowed", other)
	}
	return "no entry of Network.Allow names it"
}

// permitsAddr says why a connection on behalf of a host may not go to an address.
func (pol *Policy) permitsAddr(h host, a netip.Addr, port int) string {
	if !h.addr.IsValid() || h.addr != a { // the name was permitted, the address must be harmless
		return pol.harmless(a, port)
	}
	for _, r := range pol.rules {
		if r.prefix.IsValid() && r.prefix.Contains(a) && (r.port == 0 || r.port == port) {
			return pol.harmless(a, port)
		}
	}
	return "no entry of Network.Allow names it"
}

// harmless says which special range an address is in that no rule names, or that it is the worker's own.
func (pol *Policy) harmless(a netip.Addr, port int) string {
	for {
		if !pol.covers(a.BitLen(), a, port) && isOwn(a) {
			return fmt.Sprintf("%s is an address of the worker's host, which no entry of Network.Allow names as such", a)
		}
		s := specialOf(a)
		if s == nil {
			return ""
		}
		if !pol.covers(s.prefix.Bits(), a, port) { // 0.0.0.0/0 is not about private networks
			return fmt.Sprintf("%s is in %s (%s), which no entry of Network.Allow names", a, s.prefix, s.what)
		}
		if s.inner == nil {
			return ""
		}
		a = s.inner(a)
	}
}

// covers reports whether a rule is about no more addresses than those that have so many bits in common with one, and
// about that one.
func (pol *Policy) covers(bits int, a netip.Addr, port int) bool {
	for _, r := range pol.rules {
		if r.prefix.IsValid() && r.prefix.Bits() >= bits && r.prefix.Contains(a) && (r.port == 0 || r.port == port) {
			return true
		}
	}
	return false
}
