package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// A host is where a program wants to go: a name in lower case, or an address.
type host struct {
	name string
	addr netip.Addr // valid if it is an address
}

func (h host) String() string {
	if h.addr.IsValid() {
		return h.addr.String()
	}
	return h.name
}

// maxName is how long a name may be.
const maxName = 253

// parseHost reads a host as DNS and sockets would, and refuses whatever another
// reader could take for something else: a name is letters, digits, '-' and '_' in
// labels, an address is written in full. So there are no user infos, percent
// signs, NUL bytes, trailing dots, zones, and no numbers but those of the four
// decimal parts of an address.
func parseHost(s string) (host, error) {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
		if !strings.Contains(s, ":") {
			return host{}, errors.New("brackets are for IPv6 addresses")
		}
	}
	if strings.Contains(s, ":") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return host{}, errors.New("it is no IPv6 address without a zone")
		}
		return host{addr: a.Unmap()}, nil
	}
	if s == "" {
		return host{}, errors.New("it is empty")
	}
	if len(s) > maxName {
		return host{}, fmt.Errorf("it is longer than %d bytes", maxName)
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		case c >= 0x80:
			return host{}, errors.New("it is not ASCII; write an internationalized name in its xn-- form")
		default:
			return host{}, fmt.Errorf("a name has no %q", c)
		}
	}
	s = strings.ToLower(s)
	labels := strings.Split(s, ".")
	for _, l := range labels {
		switch {
		case l == "":
			return host{}, errors.New("a part of it is empty")
		case len(l) > 63:
			return host{}, errors.New("a part of it is longer than 63 bytes")
		case l[0] == '-' || l[len(l)-1] == '-':
			return host{}, errors.New("a part of it begins or ends with '-'")
		}
	}
	if last := labels[len(labels)-1]; numeric(last) { // so that nobody reads it as an address but we
		a, err := netip.ParseAddr(s)
		if err != nil {
			return host{}, errors.New("it ends in a number and is no IPv4 address of four decimal parts")
		}
		return host{addr: a}, nil
	}
	return host{name: s}, nil
}

// numeric reports whether inet_aton or a browser would read s as a number.
func numeric(s string) bool {
	if h, ok := strings.CutPrefix(s, "0x"); ok {
		return strings.Trim(h, "0123456789abcdef") == ""
	}
	return strings.Trim(s, "0123456789") == ""
}
