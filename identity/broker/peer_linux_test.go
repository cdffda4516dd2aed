package broker_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/testenv"
)

// A socket is for the users that it is for. The broker's own is one of them unless others are named.
func TestPeers(t *testing.T) {
	f := newFixture(t)
	if _, err := begin(t.Context(), f.serve(), f.claim); err != nil {
		t.Error(err)
	}
	f.cfg.Peers = []uint32{uint32(os.Getuid()) + 1}
	if _, err := begin(t.Context(), f.serve(), f.claim); err == nil || reason(err) != "" {
		t.Errorf("another user is let in: %v", err)
	}
}

// A message has a limit, and one run cannot ask for ever. Who only names it takes none of its places.
func TestLimits(t *testing.T) {
	broker.SetRatePer(t, time.Hour)
	f := newFixture(t)
	client, err := f.serve().Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(hello []byte) connect.Code {
		_, err := client.Issue(t.Context(), connect.NewRequest(&rpc.IssueRequest{Claim: f.claim, Hello: hello}))
		return connect.CodeOf(err)
	}
	if code := issue(bytes.Repeat([]byte{1}, 60<<10)); code != connect.CodeFailedPrecondition { // is read, and no hello
		t.Errorf("a message of 60 KiB: %v", code)
	}
	if code := issue(bytes.Repeat([]byte{1}, 65<<10)); code != connect.CodeResourceExhausted {
		t.Errorf("a message of 65 KiB: %v", code)
	}
	own := f.claim
	f.claim = proto.CloneOf(own)
	f.claim.Session++
	for range 250 {
		if code := issue(nil); code != connect.CodeFailedPrecondition {
			t.Fatalf("a worker that does not have the run: %v", code)
		}
	}
	f.claim = own
	if code := issue(nil); code == connect.CodeResourceExhausted {
		t.Error("calls of another worker count")
	}
	through := 0
	for issue(nil) != connect.CodeResourceExhausted && through < 250 {
		through++
	}
	if through < 150 || through == 250 {
		t.Errorf("%d calls were let through", through)
	}
	other := f.attempt(1, 2, "publish#2")
	other.Run++
	if _, err := client.Issue(t.Context(), connect.NewRequest(&rpc.IssueRequest{Claim: other})); reason(err) != "fenced" {
		t.Errorf("another run hears %v", err)
	}
}

// A store that does not answer keeps nobody else waiting.
func TestSlowStore(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	const n = 100
	waiting, free := make(chan struct{}, n), make(chan struct{})
	f.store.wait = func(ctx context.Context, _ string) {
		waiting <- struct{}{}
		select {
		case <-free:
		case <-ctx.Done():
		}
	}
	link := f.serve()
	var all sync.WaitGroup
	for i := range n {
		c := f.attempt(10+i, 1, "publish#9")
		all.Go(func() {
			if _, err := get(t.Context(), link, c); err != nil {
				t.Error(err)
			}
		})
	}
	for range n {
		testenv.Receive(t, waiting)
	}
	if _, err := begin(t.Context(), link, f.claim); err != nil {
		t.Error(err)
	}
	close(free)
	all.Wait()
}

// By TCP a worker needs a certificate that the broker knows the issuer of.
func TestMutualTLS(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	ours, theirs := newAuthority(t), newAuthority(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.cfg.TLS = &tls.Config{Certificates: []tls.Certificate{ours.issue(t)}, ClientCAs: ours.pool}
	address := "https://" + ln.Addr().String()
	f.serveOn(ln, "unix:///nowhere")
	for name, c := range map[string]struct {
		tls  *tls.Config
		good bool
	}{
		"ours":        {&tls.Config{RootCAs: ours.pool, Certificates: []tls.Certificate{ours.issue(t)}}, true},
		"another's":   {&tls.Config{RootCAs: ours.pool, Certificates: []tls.Certificate{theirs.issue(t)}}, false},
		"not the one": {&tls.Config{RootCAs: theirs.pool, Certificates: []tls.Certificate{ours.issue(t)}}, false},
	} {
		link, err := brokerlink.New(address, c.tls)
		if err != nil {
			t.Fatal(err)
		}
		o, err := get(t.Context(), link, f.claim)
		if (err == nil) != c.good || c.good && string(o.Items[0].Value) != "s3cr3t-canary" {
			t.Errorf("%s: got %v", name, err)
		}
		link.Close()
	}
	if _, err := brokerlink.New(address, nil); err == nil {
		t.Error("an address is taken without a certificate")
	}
}

// Whoever connects needs a certificate also where each connection has a configuration of its own, which may name other
// authorities.
func TestMutualTLSOfEach(t *testing.T) {
	f := newFixture(t)
	ours, theirs := newAuthority(t), newAuthority(t)
	own := ours.issue(t)
	connects := func(as *tls.Config, c tls.Certificate) error {
		t.Helper()
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f.cfg.TLS = &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: ours.pool}
		f.cfg.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return as, nil }
		f.serveOn(ln, "unix:///nowhere")
		link, err := brokerlink.New("https://"+ln.Addr().String(), &tls.Config{RootCAs: ours.pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }})
		if err != nil {
			t.Fatal(err)
		}
		defer link.Close()
		_, err = begin(t.Context(), link, f.claim)
		return err
	}
	certificates := []tls.Certificate{own}
	for name, c := range map[string]struct {
		as          *tls.Config
		ours, other bool
	}{
		"nobody named":   {as: &tls.Config{Certificates: certificates}, ours: true},
		"no certificate": {as: &tls.Config{Certificates: certificates, ClientAuth: tls.NoClientCert, ClientCAs: ours.pool}, ours: true},
		"not verified":   {as: &tls.Config{Certificates: certificates, ClientAuth: tls.RequireAnyClientCert, ClientCAs: ours.pool}, ours: true},
		"others named":   {as: &tls.Config{Certificates: certificates, ClientCAs: theirs.pool}, other: true}, // the control
	} {
		if err := connects(c.as, ours.issue(t)); (err == nil) != c.ours {
			t.Errorf("%s: ours: %v", name, err)
		}
		if err := connects(c.as, theirs.issue(t)); (err == nil) != c.other {
			t.Errorf("%s: another's: %v", name, err)
		}
		if err := connects(c.as, tls.Certificate{}); err == nil {
			t.Errorf("%s: none: it is let in", name)
		}
	}
}

// TLS does not tell the user of who connects from the broker's own host. From another one it is nobody who
// could read what is the broker's.
func TestLevelByTLS(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x", MinLevel: identity.L1})
	ca := newAuthority(t)
	f.cfg.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t)}, ClientCAs: ca.pool}
	ours := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			ours = append(ours, n.IP)
		}
	}
	ask := func(from net.IP) error {
		t.Helper()
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f.serveOn(&distant{ln, from}, "unix:///nowhere")
		link, err := brokerlink.New("https://"+ln.Addr().String(), &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{ca.issue(t)}})
		if err != nil {
			t.Fatal(err)
		}
		defer link.Close()
		_, err = get(t.Context(), link, f.claim)
		return err
	}
	for _, ip := range ours {
		if err := ask(ip); reason(err) != "level" || !strings.Contains(err.Error(), "unix socket") {
			t.Errorf("from %v: got %v", ip, err)
		}
	}
	if err := ask(net.IPv4(192, 0, 2, 1)); err != nil {
		t.Errorf("from another host: %v", err)
	}
}

// distant is a listener whose connections come from an address.
type distant struct {
	net.Listener
	from net.IP
}

func (d *distant) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	return &from{c, d.from}, err
}

type from struct {
	net.Conn
	ip net.IP
}

func (f *from) RemoteAddr() net.Addr { return &net.TCPAddr{IP: f.ip, Port: 1} }

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
