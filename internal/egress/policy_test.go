package egress

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestHost(t *testing.T) {
	for in, want := range map[string]string{
		"ok.com": "ok.com", "OK.com": "ok.com", "a_b.ok-1.com": "a_b.ok-1.com", "xn--bcher-kva.example": "xn--bcher-kva.example",
		"localhost": "localhost", "1.ok.com": "1.ok.com", "1e100.net": "1e100.net",
		"192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::1", "[2001:db8::1]": "2001:db8::1",
		"::ffff:169.254.169.254": "169.254.169.254", "[::FFFF:7f00:1]": "127.0.0.1",
		strings.Repeat("a.", 126) + "b": strings.Repeat("a.", 126) + "b",
		// Everything below is refused.
		"": "", "ok.com.": "", ".ok.com": "", "ok..com": "", "evil.com\x00.ok.com": "", "ok.com\x00": "", "ok.com\r\n": "",
		"ok.com@evil.com": "", "evil.com#ok.com": "", "evil.com/ok.com": "", `evil.com\ok.com`: "", "ok%2ecom": "", "ok.com%00": "",
		"ok.com:80": "", "*.ok.com": "", "*": "", " ok.com": "", "ok.com ": "", "-ok.com": "", "ok-.com": "",
		"bücher.example": "", "ｏｋ.com": "", "ok。com": "", "ok.com\u200b": "", "\xff.com": "",
		"2130706433": "", "0x7f000001": "", "0x7f.0.0.1": "", "127.1": "", "127.0.1": "", "0177.0.0.1": "", "127.0.0.01": "",
		"1.2.3.4.5": "", "256.1.1.1": "", "ok.com.1": "", "ok.0x1f": "", "ok.0X1F": "", "0x": "", "127.0.0.1.": "",
		"[ok.com]": "", "[127.0.0.1]": "", "[::1": "", "::1]": "", "[::1]:80": "", "fe80::1%lo": "", "[fe80::1%25lo]": "", ":": "", "[]": "",
		strings.Repeat("a", 64) + ".com": "", strings.Repeat("a.", 127) + "b": "",
	} {
		h, err := parseHost(in)
		if got := h.String(); err == nil && got != want || err != nil && want != "" {
			t.Errorf("%q is read as %q, %v; want %q", in, got, err, want)
		}
	}
}

// What is accepted has one reading: it is accepted again as what it was read as,
// and nothing in it means something to a URL, a resolver or a log.
func FuzzHost(f *testing.F) {
	for _, s := range []string{"ok.com", "OK.com", "evil\x00.ok.com", "127.1", "0x7f000001", "[::ffff:1.2.3.4]", "a@b", "ok.com."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHost(s)
		if err != nil {
			return
		}
		again, err := parseHost(h.String())
		if err != nil || again != h {
			t.Errorf("%q is read as %q, and that as %q, %v", s, h, again, err)
		}
		if strings.ContainsAny(h.String(), "@/\\%#?\x00\r\n \"") || strings.HasSuffix(h.String(), ".") {
			t.Errorf("%q is read as %q", s, h)
		}
		if a, err := netip.ParseAddr(h.String()); err == nil != h.addr.IsValid() || h.addr.Is4In6() || a.Zone() != "" {
			t.Errorf("%q is %v, an address: %v", s, h, err == nil)
		}
	})
}

// An entry that says nothing of a host does not allow it.
func FuzzRule(f *testing.F) {
	for _, s := range []string{"ok.com:443", "*.ok.com", "10.0.0.0/8", "[::1]:80", "::1", "0.0.0.0/0", "::ffff:10.0.0.0/104"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		pol, err := Parse([]string{s})
		if err != nil {
			return
		}
		s = strings.ToLower(s)
		if pol.permits(host{name: "evil.example"}, 443) == "" && !strings.HasPrefix(s, "evil.example") && !strings.HasPrefix(s, "*.example") {
			t.Errorf("%q allows evil.example", s)
		}
		if pol.permits(host{addr: netip.MustParseAddr("169.254.169.254")}, 80) == "" && !strings.Contains(s, "169.254.") && !strings.Contains(s, "::ffff:a9fe:") {
			t.Errorf("%q allows the address of metadata", s)
		}
	})
}

func TestParse(t *testing.T) {
	for entry, want := range map[string]string{
		"ok.com": "", "ok.com:443": "", "*.ok.com": "", "*.ok.com:443": "", "192.0.2.1": "", "192.0.2.1:80": "",
		"10.0.0.0/8": "", "::/0": "", "2001:db8::1": "", "[2001:db8::1]:443": "", "[2001:db8::1]": "", "::ffff:10.0.0.0/104": "",
		"": "empty", "https://ok.com": "it is a URL", "ok.com/path": "no '/'", "10.0.0.1/8": "10.0.0.0/8 would be the network", "10.0.0.0/33": "/33",
		"ok.com:0": "no port", "ok.com:65536": "no port", "ok.com:https": "no port", "ok.com:": "no port", "ok.com:+1": "no port", "ok.com:08": "no port",
		"*": "no '*'", "*.*.com": "no '*'", "a*.com": "no '*'", "*.10.0.0.1": "nothing below", "ok.com.": "empty", "bücher.example": "xn--",
		"::ffff:0:0/95": "bits", "*.": "empty", "::/90": "",
	} {
		_, err := Parse([]string{"first.example", entry})
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", entry, err)
		case want != "" && err == nil:
			t.Errorf("%q is accepted, want %q", entry, want)
		case want != "" && !strings.Contains(err.Error(), want) && want != "no '/'":
			t.Errorf("%q: %v, want %q", entry, err, want)
		}
	}
}

// Each case is a policy, where a program wants to go, and what that resolves to.
func TestPolicy(t *testing.T) {
	was := addresses
	defer func() { addresses = was }()
	addresses = func() (all []net.Addr, _ error) {
		for _, own := range []string{"127.0.0.1/8", "93.184.216.7/24", "2606:2800:220:1::7/64", "10.7.7.7/16"} {
			ip, n, err := net.ParseCIDR(own)
			if err != nil {
				return nil, err
			}
			all = append(all, &net.IPNet{IP: ip, Mask: n.Mask})
		}
		return all, nil
	}
	for _, c := range []struct {
		allow, host string
		port        int
		addr        string // empty: the host itself
		why         string // part of it; empty: allowed
	}{
		{"", "ok.com", 443, "93.184.216.34", "no entry"},
		{"", "93.184.216.34", 443, "", "no entry"},
		{"ok.com", "ok.com", 443, "93.184.216.34", ""},
		{"ok.com", "ok.com", 22, "93.184.216.34", ""},
		{"ok.com", "OK.COM", 443, "93.184.216.34", ""},
		{"OK.com", "ok.com", 443, "93.184.216.34", ""},
		{"ok.com:443", "ok.com", 443, "93.184.216.34", ""},
		{"ok.com:443", "ok.com", 80, "93.184.216.34", "only port 443"},
		{"ok.com:443 ok.com:80", "ok.com", 80, "93.184.216.34", ""},
		{"ok.com", "okk.com", 443, "93.184.216.34", "no entry"},
		{"ok.com", "ok.com.evil.com", 443, "93.184.216.34", "no entry"},
		{"ok.com", "evil-ok.com", 443, "93.184.216.34", "no entry"},
		{"ok.com", "www.ok.com", 443, "93.184.216.34", "no entry"},
		{"ok.com", "com", 443, "93.184.216.34", "no entry"},
		{"*.ok.com", "www.ok.com", 443, "93.184.216.34", ""},
		{"*.ok.com", "a.b.ok.com", 443, "93.184.216.34", ""},
		{"*.ok.com", "ok.com", 443, "93.184.216.34", "no entry"},
		{"*.ok.com", "evilok.com", 443, "93.184.216.34", "no entry"},
		{"*.ok.com:443", "www.ok.com", 80, "93.184.216.34", "only port 443"},
		// A name does not cover its address, nor an address a name.
		{"ok.com", "93.184.216.34", 443, "", "no entry"},
		{"93.184.216.34", "93.184.216.34", 443, "", ""},
		{"93.184.216.34", "ok.com", 443, "93.184.216.34", "no entry"},
		{"93.184.216.34:80", "93.184.216.34", 443, "", "no entry"},
		{"0.0.0.0/0", "ok.com", 443, "93.184.216.34", "no entry"},
		{"0.0.0.0/0", "93.184.216.34", 443, "", ""},
		{"0.0.0.0/0", "2606:2800:220:1::1", 443, "", "no entry"},
		{"::/0", "2606:2800:220:1::1", 443, "", ""},
		{"::/0", "::ffff:93.184.216.34", 443, "", "no entry"},
		// An allowed name that leads inside: rebinding, a record of an attacker's.
		{"ok.com", "ok.com", 80, "127.0.0.1", "loopback"},
		{"ok.com", "ok.com", 80, "10.1.2.3", "private"},
		{"ok.com", "ok.com", 80, "169.254.169.254", "metadata"},
		{"ok.com", "ok.com", 80, "168.63.129.16", "metadata"},
		{"ok.com", "ok.com", 80, "100.100.100.200", "carrier-grade"},
		{"ok.com", "ok.com", 80, "192.168.1.1", "private"},
		{"ok.com", "ok.com", 80, "172.31.255.255", "private"},
		{"ok.com", "ok.com", 80, "172.32.0.1", ""},
		{"ok.com", "ok.com", 80, "0.0.0.0", "this host"},
		{"ok.com", "ok.com", 80, "255.255.255.255", "reserved"},
		{"ok.com", "ok.com", 80, "::", "loopback"},
		{"ok.com", "ok.com", 80, "::1", "loopback"},
		{"ok.com", "ok.com", 80, "::10.0.0.1", "loopback"},
		{"ok.com", "ok.com", 80, "fd00:ec2::254", "private"},
		{"ok.com", "ok.com", 80, "fe80::1", "link-local"},
		{"ok.com", "ok.com", 80, "64:ff9b::7f00:1", "NAT64"},
		{"ok.com", "ok.com", 80, "64:ff9b:1::7f00:1", "NAT64"},
		{"ok.com", "ok.com", 80, "2002:7f00:1::", "6to4"},
		{"ok.com", "ok.com", 80, "2001::1", "Teredo"},
		{"ok.com", "ok.com", 80, "ff02::1", "multicast"},
		// "Everything" is not about what is special.
		{"0.0.0.0/0 ::/0", "127.0.0.1", 80, "", "loopback"},
		{"0.0.0.0/0 ::/0", "169.254.169.254", 80, "", "metadata"},
		{"0.0.0.0/0 ::/0", "::ffff:169.254.169.254", 80, "", "metadata"},
		{"0.0.0.0/0 ::/0", "::1", 80, "", "loopback"},
		{"8.0.0.0/5", "10.0.0.1", 80, "", "private"},
		// Named, they are allowed, and others are not.
		{"10.0.0.0/8", "10.1.2.3", 80, "", ""},
		{"10.1.0.0/16", "10.1.2.3", 80, "", ""},
		{"10.1.0.0/16", "10.2.2.3", 80, "", "no entry"},
		{"10.0.0.0/8", "127.0.0.1", 80, "", "no entry"},
		{"127.0.0.1", "127.0.0.1", 80, "", ""},
		{"127.0.0.1:8080", "127.0.0.1", 80, "", "no entry"},
		{"169.254.169.254", "169.254.169.254", 80, "", ""},
		{"::ffff:10.0.0.0/104", "10.1.2.3", 80, "", ""},
		{"db.internal", "db.internal", 5432, "10.1.2.3", "private"},
		{"db.internal 10.1.0.0/16", "db.internal", 5432, "10.1.2.3", ""},
		{"db.internal 10.1.0.0/16", "db.internal", 5432, "10.2.2.3", "private"},
		{"db.internal 10.1.2.3:5432", "db.internal", 5432, "10.1.2.3", ""},
		{"db.internal 10.1.2.3:5432", "db.internal", 5433, "10.1.2.3", "private"},
		{"ok.com 64:ff9b::/96", "ok.com", 80, "64:ff9b::5db8:d822", ""},
		{"ok.com 64:ff9b::/96", "ok.com", 80, "64:ff9b::a9fe:a9fe", "metadata"},
		{"localhost", "localhost", 80, "127.0.0.1", "loopback"},
		{"ok.com", "ok.com", 80, "::ffff:0:10.0.0.1", "SIIT"},
		{"ok.com ::ffff:0:0:0/96", "ok.com", 80, "::ffff:0:169.254.169.254", "metadata"},
		// What the worker's host has itself, whatever range it is in.
		{"ok.com", "ok.com", 80, "93.184.216.7", "worker's host"},
		{"ok.com", "ok.com", 80, "2606:2800:220:1::7", "worker's host"},
		{"0.0.0.0/0 ::/0", "2606:2800:220:1::7", 80, "", "worker's host"},
		{"10.0.0.0/8", "10.7.7.7", 80, "", "worker's host"},
		{"ok.com 64:ff9b::/96", "ok.com", 80, "64:ff9b::93.184.216.7", "worker's host"},
		{"ok.com 93.184.216.7:80", "ok.com", 80, "93.184.216.7", ""},
		{"ok.com 93.184.216.7:80", "ok.com", 81, "93.184.216.7", "worker's host"},
		{"10.7.7.7", "10.7.7.7", 80, "", ""},
	} {
		pol, err := Parse(strings.Fields(c.allow))
		if err != nil {
			t.Fatal(err)
		}
		h, err := parseHost(c.host)
		if err != nil {
			t.Fatal(err)
		}
		why := pol.permits(h, c.port)
		if why == "" && c.addr != "" {
			why = pol.permitsAddr(h, netip.MustParseAddr(c.addr).Unmap(), c.port)
		}
		if (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
			t.Errorf("[%s] to %s:%d at %s: %q, want %q", c.allow, c.host, c.port, c.addr, why, c.why)
		}
	}
}
