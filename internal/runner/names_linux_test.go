package runner

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func newNames() *names {
	return &names{addr: map[string]netip.Addr{}, name: map[netip.Addr]string{}}
}

func lookup(t *testing.T, n *names, name string, kind dnsmessage.Type) []netip.Addr {
	t.Helper()
	q := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	raw, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	raw, err = n.answer(raw)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(raw); err != nil {
		t.Fatal(err)
	}
	if m.ID != 7 || !m.Response || m.RCode != dnsmessage.RCodeSuccess || len(m.Questions) != 1 || m.Questions[0] != q.Questions[0] {
		t.Errorf("%s: %+v", name, m)
	}
	var out []netip.Addr
	for _, a := range m.Answers {
		out = append(out, netip.AddrFrom4(a.Body.(*dnsmessage.AResource).A))
	}
	return out
}

// A name has one address of its own, however it is written, and no other records.
func TestNames(t *testing.T) {
	n := newNames()
	one := lookup(t, n, "Ok.Test.", dnsmessage.TypeA)
	if len(one) != 1 || !made.Contains(one[0]) {
		t.Fatalf("a name has the addresses %v", one)
	}
	if again := lookup(t, n, "ok.test.", dnsmessage.TypeA); len(again) != 1 || again[0] != one[0] {
		t.Errorf("and then %v", again)
	}
	if other := lookup(t, n, "evil.test.", dnsmessage.TypeA); other[0] == one[0] {
		t.Error("two names have one address")
	}
	if name, ok := n.of(one[0]); !ok || name != "ok.test" {
		t.Errorf("the address is of %q, %t", name, ok)
	}
	if got := lookup(t, n, "x.localhost.", dnsmessage.TypeA); len(got) != 1 || !got[0].IsLoopback() {
		t.Errorf("localhost has the addresses %v", got)
	}
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeTXT, dnsmessage.TypeMX, dnsmessage.TypePTR, 65} {
		if got := lookup(t, n, "ok.test.", kind); len(got) != 0 {
			t.Errorf("%v: %v", kind, got)
		}
	}
}

// Who makes up names fills no memory, and gets no address of a name that is known.
func TestNamesAreForgotten(t *testing.T) {
	n := newNames()
	first := n.to("first.test")
	var last netip.Addr
	for i := range uint32(1 << 17) {
		last = n.to(strings.Repeat("x", int(i%50)) + netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}).String())
		if !made.Contains(last) {
			t.Fatalf("%v is none of the addresses for names", last)
		}
		if name, ok := n.of(first); i < keepNames-1 && name != "first.test" || i >= keepNames && i < 1<<16 && ok {
			t.Fatalf("after %d names the first one's address is of %q", i+1, name)
		}
	}
	if len(n.addr) != keepNames || len(n.name) != keepNames {
		t.Errorf("%d names and %d addresses are kept", len(n.addr), len(n.name))
	}
}

// FuzzNames reads what programs send: an answer or an error, no panic.
func FuzzNames(f *testing.F) {
	q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("ok.test."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	raw, err := q.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:13])
	f.Add(append(raw, 0xc0, 0x0c))
	f.Fuzz(func(t *testing.T, raw []byte) {
		out, err := newNames().answer(raw)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil {
			t.Fatalf("the answer cannot be read: %v", err)
		}
		if _, err := newNames().answer(out); err == nil {
			t.Fatal("an answer was answered")
		}
	})
}
