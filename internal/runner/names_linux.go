package runner

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// names is the name server of a sandbox. It resolves nothing: each name gets an
// address of its own, by which the redirect knows what the program asked for. So a
// policy is about names here as well, and no name leaves the sandbox before the
// policy has allowed it.
type names struct {
	mu   sync.Mutex
	addr map[string]netip.Addr
	name map[netip.Addr]string
	next uint32
}

const (
	portDNS   = 53
	keepNames = 4096 // then the oldest one's address is nobody's
	ttl       = 60   // seconds
)

// made are the addresses that names get. They are reserved for tests of routers.
var made = netip.MustParsePrefix("198.18.0.0/15")

// resolvesHere reports whether programs of the sandbox ask its own name server.
func resolvesHere() bool {
	raw, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return errors.Is(err, os.ErrNotExist) // then they do
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			return f[1] == "127.0.0.1"
		}
	}
	return true
}

func startNames() (*names, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: portDNS})
	if err != nil {
		return nil, fmt.Errorf("listen for names: %w", err)
	}
	n := &names{addr: map[string]netip.Addr{}, name: map[netip.Addr]string{}}
	go n.serve(c) // as long as the sandbox is
	return n, nil
}

func (n *names) serve(c *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		size, from, err := c.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if out, err := n.answer(buf[:size]); err == nil { // else it was no question
			_, _ = c.WriteToUDPAddrPort(out, from)
		}
	}
}

// answer answers a question of DNS.
func (n *names) answer(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	if h.Response || h.OpCode != 0 {
		return nil, errors.New("it is no query")
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: h.ID, Response: true, Authoritative: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
	})
	if err := errors.Join(b.StartQuestions(), b.Question(q), b.StartAnswers()); err != nil {
		return nil, err
	}
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: ttl}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	local := name == "localhost" || strings.HasSuffix(name, ".localhost")
	switch {
	case q.Class != dnsmessage.ClassINET || name == "":
	case q.Type == dnsmessage.TypeA && local:
		err = b.AResource(head, dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}})
	case q.Type == dnsmessage.TypeA:
		err = b.AResource(head, dnsmessage.AResource{A: n.to(name).As4()})
	}
	if err != nil {
		return nil, err
	}
	return b.Finish()
}

// to returns the address of a name.
func (n *names) to(name string) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.addr[name]; ok {
		return a
	}
	a := nth(n.next)
	if n.next >= keepNames {
		old := nth(n.next - keepNames)
		delete(n.addr, n.name[old])
		delete(n.name, old)
	}
	n.next++
	n.addr[name], n.name[a] = a, name
	return a
}

// nth returns the address of the name that came as the ith. A program that keeps an
// address for 100,000 names more finds another name's.
func nth(i uint32) netip.Addr {
	first := made.Addr().As4()
	i = i%(1<<17-2) + 1
	return netip.AddrFrom4([4]byte{first[0], first[1] + byte(i>>16), byte(i >> 8), byte(i)})
}

// of returns the name that has an address.
func (n *names) of(a netip.Addr) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	name, ok := n.name[a]
	return name, ok
}
