package egress

import (
	"net"
	"net/netip"
	"slices"
)

// A special range is one that the Internet does not reach, or that leads back
// into the network of the worker. A rule must name it, or a part of it.
type special struct {
	prefix netip.Prefix
	what   string
	// inner returns the IPv4 address that the range's addresses stand for, if it
	// is one of those: both must be allowed.
	inner func(netip.Addr) netip.Addr
}

// specials are IANA's special-purpose registries, and what clouds answer at.
var specials = []special{
	{cidr("0.0.0.0/8"), "this host", nil},
	{cidr("10.0.0.0/8"), "private", nil},
	{cidr("100.64.0.0/10"), "carrier-grade NAT", nil},
	{cidr("127.0.0.0/8"), "loopback", nil},
	{cidr("168.63.129.16/32"), "metadata", nil}, // Azure's
	{cidr("169.254.0.0/16"), "link-local, metadata", nil},
	{cidr("172.16.0.0/12"), "private", nil},
	{cidr("192.0.0.0/24"), "protocol assignments", nil},
	{cidr("192.0.2.0/24"), "documentation", nil},
	{cidr("192.88.99.0/24"), "6to4 relay", nil},
	{cidr("192.168.0.0/16"), "private", nil},
	{cidr("198.18.0.0/15"), "benchmarking", nil},
	{cidr("198.51.100.0/24"), "documentation", nil},
	{cidr("203.0.113.0/24"), "documentation", nil},
	{cidr("224.0.0.0/4"), "multicast", nil},
	{cidr("240.0.0.0/4"), "reserved", nil},
	{cidr("::/96"), "loopback, IPv4-compatible", nil},
	{cidr("::ffff:0:0:0/96"), "SIIT", lastFour},
	{cidr("64:ff9b::/96"), "NAT64", lastFour},
	{cidr("64:ff9b:1::/48"), "local NAT64", nil},
	{cidr("100::/64"), "discard-only", nil},
	{cidr("2001::/23"), "protocol assignments, Teredo", nil},
	{cidr("2001:db8::/32"), "documentation", nil},
	{cidr("2002::/16"), "6to4", func(a netip.Addr) netip.Addr { b := a.As16(); return netip.AddrFrom4([4]byte(b[2:6])) }},
	{cidr("3fff::/20"), "documentation", nil},
	{cidr("5f00::/16"), "segment routing", nil},
	{cidr("fc00::/7"), "private", nil},
	{cidr("fe80::/10"), "link-local", nil},
	{cidr("fec0::/10"), "site-local", nil},
	{cidr("ff00::/8"), "multicast", nil},
}

var cidr = netip.MustParsePrefix

func lastFour(a netip.Addr) netip.Addr { b := a.As16(); return netip.AddrFrom4([4]byte(b[12:16])) }

// addresses returns those of the worker's host. Tests say others.
var addresses = net.InterfaceAddrs

// isOwn reports whether an address is one of the worker's host, which it may get at any time. Those of the loopback
// interface are in ranges of their own. One that cannot be told from them is.
func isOwn(a netip.Addr) bool {
	if a.IsLoopback() {
		return false
	}
	all, err := addresses()
	return err != nil || slices.ContainsFunc(all, func(own net.Addr) bool {
		n, ok := own.(*net.IPNet)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		return ok && ip.Unmap() == a
	})
}

// specialOf returns the special range of an address, nil if it has none.
func specialOf(a netip.Addr) *special {
	for i := range specials {
		if specials[i].prefix.Contains(a) {
			return &specials[i]
		}
	}
	return nil
}
