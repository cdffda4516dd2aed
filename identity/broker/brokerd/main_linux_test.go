package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// envMain has the test's program be brokerd.
const envMain = "BROKERD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func brokerd(t *testing.T, args ...string) *exec.Cmd {
	c := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	c.Env = append(os.Environ(), envMain+"=1")
	return c
}

// A socket whose owner is too busy to answer is not taken from it.
func TestBusySocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "brokerd") // short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	busy, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(busy)
	if err := errors.Join(unix.Bind(busy, &unix.SockaddrUnix{Name: path}), unix.Listen(busy, 0)); err != nil {
		t.Fatal(err)
	}
	waiting, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	if ln, err := listen(path); err == nil || !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("got %v, %v", ln, err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// A service answers those that it is for at both of its doors, says whether it is well, and ends when it is told
// to, without a trace of its socket.
func TestService(t *testing.T) {
	pool, schema := testenv.Postgres(t)
	if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "brokerd") // short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	in := func(name string) string { return filepath.Join(dir, name) }
	ca := newAuthority(t)
	ca.issue(t, "broker", in("cert"), in("key"))
	if err := os.WriteFile(in("ca"), ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	stale, err := net.Listen("unix", in("s"))
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close() // as one that was killed leaves it
	args := []string{
		"-database", pool.Config().ConnString(), "-schema", schema, "-dir", in("broker"), "-files", in("store"), "-health", "127.0.0.1:0",
		"-socket", in("s"), "-listen", "127.0.0.1:0", "-cert", in("cert"), "-key", in("key"), "-ca", in("ca"), "-names", "worker,other",
	}
	c := brokerd(t, args...)
	c.Env = append(c.Env, fmt.Sprintf("BROKERD_PEERS=%d", os.Getuid()))
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	log := bufio.NewReader(stderr)
	said := func(pattern string) string {
		t.Helper()
		var all strings.Builder
		for {
			line, err := log.ReadString('\n')
			if m := regexp.MustCompile(pattern).FindStringSubmatch(line); m != nil {
				return m[1]
			}
			if all.WriteString(line); err != nil {
				t.Fatalf("%q was not said: %v\n%s", pattern, err, &all)
			}
		}
	}
	address, url := said(`serving address=(\S+)`), said(`health url=(\S+)`)

	ask := func(address string, tls *tls.Config) error {
		link, err := brokerlink.New(address, tls)
		if err != nil {
			t.Fatal(err)
		}
		defer link.Close()
		client, err := link.Client(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Begin(t.Context(), connect.NewRequest(&rpc.BeginRequest{Claim: &rpc.Claim{Run: 1, Seq: 1, Attempt: 1, Epoch: 1, Session: 1, Sandbox: "x"}}))
		return err
	}
	answers := func(err error) bool { r := brokerlink.Refused(err); return r != nil && r.Reason == "fenced" } // as it has looked in Postgres
	worker := func(ca authority, name string) *tls.Config {
		return &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.issue(t, name, in("c"), in("k"))}, ServerName: "broker"}
	}
	if err := ask("unix://"+in("s"), nil); !answers(err) {
		t.Errorf("by its socket: %v", err)
	}
	if err := ask("https://"+address, worker(ca, "worker")); !answers(err) {
		t.Errorf("by TLS: %v", err)
	}
	if err := ask("https://"+address, worker(ca, "nobody")); err == nil || answers(err) {
		t.Errorf("by TLS, with another name: %v", err)
	}
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK || string(body) != "ok\n" {
		t.Errorf("health is %d %q, %v", resp.StatusCode, body, err)
	}
	if out, err := brokerd(t, args...).CombinedOutput(); err == nil || !strings.Contains(string(out), "another broker serves") {
		t.Errorf("a second one at the same socket: %v, %s", err, out)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(log)
	if err := c.Wait(); err != nil {
		t.Errorf("it ended with %v\n%s", err, rest)
	}
	if _, err := os.Lstat(in("s")); !os.IsNotExist(err) {
		t.Errorf("its socket is left: %v", err)
	}
}

// What put has read is in the store, and nowhere in what it says.
func TestPut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	c := brokerd(t, "-files", dir, "put", "acme", "deploy-token")
	c.Stdin = strings.NewReader("s3cr3t-canary")
	out, err := c.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "version ") || strings.Contains(string(out), "canary") {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := filestore.Open(filestore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	v, err := s.Get(context.Background(), broker.Request{Path: "deploy-token", Tenant: "acme"})
	if err != nil || string(v.Bytes) != "s3cr3t-canary" {
		t.Errorf("got %q, %v", v.Bytes, err)
	}
}

// A line break at the end, which editors and echo add and headers of HTTP refuse, is kept, and told of.
func TestPutLine(t *testing.T) {
	for value, told := range map[string]bool{"s3cr3t-canary": false, "s3cr3t-canary\n": true, "s3cr3t\ncanary": false} {
		dir := filepath.Join(t.TempDir(), "store")
		c := brokerd(t, "-files", dir, "put", "acme", "deploy-token")
		c.Stdin = strings.NewReader(value)
		out, err := c.CombinedOutput()
		if err != nil || strings.Contains(string(out), "line break") != told || strings.Contains(string(out), "canary") {
			t.Errorf("%q: %v: %s", value, err, out)
		}
		s, err := filestore.Open(filestore.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if v, err := s.Get(t.Context(), broker.Request{Path: "deploy-token", Tenant: "acme"}); err != nil || string(v.Bytes) != value {
			t.Errorf("got %q, %v", v.Bytes, err)
		}
	}
}

// Who asks how it is used hears of both that it does.
func TestHelp(t *testing.T) {
	out, err := brokerd(t, "-h").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "-files FOLDER put TENANT NAME") || !strings.Contains(string(out), "-vault-approle") {
		t.Errorf("%v: %s", err, out)
	}
}

// A store under a passphrase is put into and read with it, and not without.
func TestPassphrase(t *testing.T) {
	dir := t.TempDir()
	o := options{files: filepath.Join(dir, "store"), passphraseFile: filepath.Join(dir, "passphrase")}
	if err := os.WriteFile(o.passphraseFile, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := filestore.Open(o.fileStore())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if cfg, err := o.config(); err != nil || cfg.Stores["file"] == nil {
		t.Error(err)
	}
	if err := os.WriteFile(o.passphraseFile, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := o.config(); err == nil {
		t.Error("it opens with another passphrase")
	}
}

// What is missing has its flag's name, all of it at once.
func TestOptions(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	for _, c := range []struct {
		args string
		want []string // in the error; nil: there is none
	}{
		{"", []string{"-database is", "-socket or -listen", "-files, -sops"}},
		{"-database x -socket s -files f", nil},
		{"-database x -listen :1 -files f", []string{"-cert, -key and -ca"}},
		{"-database x -socket s -vault https://v", []string{"-vault-token-file"}},
		{"-database x -socket s -vault https://v -vault-token-file t -vault-kubernetes r", []string{"-vault needs one of"}},
		{"-database x -socket s -files f -vault-token-file t", []string{"-vault needs"}},
		{"-database x -socket s -vault https://v -vault-approle r", []string{"-vault-secret-id-file"}},
		{"-database x -socket s -vault https://v -vault-approle r -vault-secret-id-file f", nil},
		{"-database x -socket s -vault https://v -vault-token-file t -vault-token-role r", []string{"-vault-token-role and -vault-dynamic"}},
		{"-database x -socket s -vault https://v -vault-token-file t -vault-dynamic database:creds/{tenant}", []string{"-vault-token-role and -vault-dynamic"}},
		{"-database x -socket s -vault https://v -vault-token-file t -vault-token-role r -vault-dynamic database:creds/{tenant}", nil},
		{"-database x -socket s -vault https://v -vault-token-file t -vault-wrapped secret:{tenant}/", nil},
		{"-database x -socket s -files f -vault-wrapped secret:{tenant}/", []string{"-vault-wrapped"}},
		{"-database x -socket s -files f -vault-namespace n", []string{"-vault-namespace"}},
		{"-database x -socket s -vault https://v -vault-token-file t -files-passphrase-file p", []string{"-files-passphrase-file"}},
		{"put acme x", []string{"-files and: put"}},
		{"-files f put acme", []string{"put TENANT NAME"}},
		{"-files f put acme x", nil},
		{"-database x -socket s -files f -docker unix:///d", []string{"-docker and -docker-program"}},
		{"-database x -socket s -files f -docker-runtime runsc", []string{"-docker and -docker-program"}},
		{"-database x -socket s -files f -docker-images app", []string{"-docker and -docker-program"}},
		{"-database x -socket s -files f -docker-no-pull", []string{"-docker and -docker-program"}},
		{"-database x -socket s -files f -docker unix:///d -docker-program /app -docker-runtime runsc", nil},
	} {
		_, err := parse(strings.Fields(c.args), none)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %s", c.args, err, want)
			}
		}
		if c.want == nil && err != nil {
			t.Errorf("%s: %v", c.args, err)
		}
	}
	o, err := parse([]string{"-socket", "s"}, func(name string) (string, bool) {
		v, ok := map[string]string{"BROKERD_DATABASE": "d", "BROKERD_SOCKET": "other", "BROKERD_VAULT_TOKEN_FILE": "t", "BROKERD_VAULT": "https://v"}[name]
		return v, ok
	})
	if err != nil || o.database != "d" || o.socket != "s" || o.tokenFile != "t" {
		t.Errorf("got %+v, %v", o, err)
	}
	o = options{vault: "https://v", tokenFile: "t", role: "r", places: "secret:{tenant}/, team/kv:shared", dynamic: "database:creds/{tenant}", wrapped: "kv:{tenant}/"}
	if _, err := o.config(); err != nil {
		t.Error(err)
	}
	o.vault = "http://v"
	if _, err := o.config(); err == nil || !strings.Contains(err.Error(), "kv are wrapped") {
		t.Errorf("what is wrapped comes by http: %v", err)
	}
	o.vault = "https://v"
	for _, places := range []string{"secret", "secret:../x"} {
		o.places = places
		if _, err := o.config(); err == nil {
			t.Errorf("%s is a place", places)
		}
	}
	if got, err := users("0, root"); err != nil || len(got) != 2 || got[1] != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := users("no-such-user"); err == nil {
		t.Error("a user that is not there is taken")
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue writes a certificate and its key to files.
func (a authority) issue(t *testing.T, name, certFile, keyFile string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, b := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
