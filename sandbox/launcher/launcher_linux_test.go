package launcher_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/launch"
	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/launcher"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandboxtest.Init()
	os.Exit(m.Run())
}

func admit(context.Context, string) error { return nil }

// serve serves a backend until the function that it returns is called.
func serve(t *testing.T, ln net.Listener, b sandbox.Backend) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{Handler: &launch.Handler{Backend: b, Witness: func(string) envelope.Witness { return envelope.Witness{} }, Admit: admit, Done: ctx}, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	stop = func() {
		cancel()
		srv.Close()
	}
	t.Cleanup(func() {
		stop()
		<-done
	})
	return stop
}

func unix(t *testing.T) (ln net.Listener, address string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "launch") // short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	if ln, err = net.Listen("unix", path); err != nil {
		t.Fatal(err)
	}
	return ln, "unix://" + path
}

// secure returns a listener with a certificate, which wants one, and what a worker needs for it.
func secure(t *testing.T) (ln net.Listener, address string, worker *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	both := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln = tls.NewListener(tcp, &tls.Config{Certificates: both, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2", "http/1.1"}})
	return ln, "https://" + tcp.Addr().String(), &tls.Config{RootCAs: pool, Certificates: both}
}

// limited has no limit of CPU.
type limited struct{ sandbox.Backend }

func (l limited) Create(ctx context.Context, c sandbox.Creation) (sandbox.Enforcement, error) {
	if c.Spec.Limits.CPU != 0 {
		return sandbox.Enforcement{}, &sandbox.UnsupportedError{Backend: l.Name(), Field: "Limits.CPU", Reason: "test"}
	}
	return l.Backend.Create(ctx, c)
}

// A sandbox that another process makes is one as any other: with commands, files and an end.
func TestSandbox(t *testing.T) {
	t.Parallel()
	b := local.New(local.Config{Program: sandboxtest.BuildProbe(t)})
	want, err := b.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plain, plainAddress := unix(t)
	secret, secretAddress, worker := secure(t)
	for name, c := range map[string]struct {
		ln     net.Listener
		config launcher.Config
	}{"unix": {plain, launcher.Config{Broker: plainAddress}}, "tls": {secret, launcher.Config{Broker: secretAddress, TLS: worker}}} {
		t.Run(name, func(t *testing.T) {
			stop := serve(t, c.ln, limited{b})
			l, err := launcher.New(c.config)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if got, err := l.Probe(t.Context()); err != nil || got != want {
				t.Errorf("it can %+v, %v", got, err)
			}
			s, err := sandbox.Start(t.Context(), l, sandbox.Options{Labels: sandbox.Labels{Schema: name, Run: 7}})
			if err != nil {
				t.Fatal(err)
			}
			if s.Enforcement().Backend != local.Name || s.Enforcement().Limits.Disk == 0 {
				t.Errorf("it enforces %+v", s.Enforcement())
			}
			data := make([]byte, 4<<20)
			rand.Read(data)
			if err := s.WriteFile(t.Context(), "big", data, 0o644); err != nil {
				t.Fatal(err)
			}
			if got, err := s.ReadFile(t.Context(), "big"); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes came back, %v", len(got), err)
			}
			listed, err := l.List(t.Context(), name)
			if err != nil || len(listed) != 1 || listed[0].ID != s.ID() || listed[0].Labels.Run != 7 {
				t.Errorf("listed is %v, %v", listed, err)
			}
			if err := s.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			if listed, err := l.List(t.Context(), name); err != nil || len(listed) != 0 {
				t.Errorf("listed is %v, %v", listed, err)
			}
			if c, err := l.Dial(t.Context(), s.ID()); !errors.Is(err, sandbox.ErrLost) {
				t.Errorf("what is gone is dialled: %v, %v", c, err)
			}
			if _, err := l.Create(t.Context(), sandbox.Creation{ID: "../x"}); err == nil || !strings.Contains(err.Error(), "a-z0-9") {
				t.Errorf("a bad id: %v", err)
			}
			_, err = l.Create(t.Context(), sandbox.Creation{ID: "image", Spec: sandbox.Spec{Image: "/no/such/image.tar"}})
			if e, ok := errors.AsType[*sandbox.ImageError](err); !ok || e.Backend != local.Name || e.Reason == "" {
				t.Errorf("no image: %v", err)
			}
			_, err = l.Create(t.Context(), sandbox.Creation{ID: "limit", Spec: sandbox.Spec{Limits: sandbox.Limits{CPU: 1e6}}})
			if e, ok := errors.AsType[*sandbox.UnsupportedError](err); !ok || e.Field != "Limits.CPU" || e.Backend != local.Name {
				t.Errorf("a limit that nothing has: %v", err)
			}
			stop()
			l.Close()
			_, err = l.Probe(t.Context())
			if _, ok := errors.AsType[*sandbox.UnavailableError](err); !ok {
				t.Errorf("without a launcher: %v", err)
			}
		})
	}
}

// A broker that ends takes its connections to sandboxes with it, and the sandboxes stay.
func TestLauncherEnds(t *testing.T) {
	t.Parallel()
	b := local.New(local.Config{Program: sandboxtest.BuildProbe(t)})
	ln, address := unix(t)
	stop := serve(t, ln, b)
	l, err := launcher.New(launcher.Config{Broker: address})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Create(t.Context(), sandbox.Creation{ID: "stays"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Destroy(context.Background(), "stays") })
	c, err := l.Dial(t.Context(), "stays")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stop()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives on")
	}
	if listed, err := b.List(t.Context(), ""); err != nil || len(listed) != 1 {
		t.Errorf("there is %v, %v", listed, err)
	}
}

// An address that no broker can have is refused at once.
func TestAddress(t *testing.T) {
	for _, address := range []string{"", "http://x", "unix://host/x", "https://x:1"} {
		if _, err := launcher.New(launcher.Config{Broker: address}); err == nil {
			t.Errorf("%q is taken", address)
		}
	}
}

// Calls wait for a broker that is away until it is there again, but for a look at what there is; what it answers is final.
func TestPatience(t *testing.T) {
	t.Parallel()
	b := local.New(local.Config{Program: sandboxtest.BuildProbe(t)})
	dir, err := os.MkdirTemp("", "launch") // short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := launcher.New(launcher.Config{Broker: "unix://" + path, Patience: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Probe(t.Context()); err == nil {
		t.Error("nobody is there, and answers")
	}
	type answer struct {
		who string
		err error
	}
	answers := make(chan answer)
	go func() {
		_, err := l.Create(t.Context(), sandbox.Creation{ID: "late", Labels: sandbox.Labels{Schema: "patience"}})
		answers <- answer{"create", err}
	}()
	go func() {
		_, err := l.Dial(t.Context(), "none")
		answers <- answer{"dial", err}
	}()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ln, b)
	t.Cleanup(func() { _ = b.Destroy(context.Background(), "late") })
	for range 2 {
		if a := <-answers; a.who == "create" && a.err != nil || a.who == "dial" && !errors.Is(a.err, sandbox.ErrLost) {
			t.Errorf("%s: %v", a.who, a.err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ln.Close()
	go func() {
		_, err := l.Dial(ctx, "late")
		answers <- answer{"dial", err}
	}()
	cancel()
	if a := <-answers; a.err == nil {
		t.Error("nobody is there, and connects")
	}
}

// told is a backend that hears from its worker, by way of the test, which layers a sandbox is to be without: a control.
type told struct {
	sandbox.Backend
	off *sync.Map // by id
}

func (b told) Create(ctx context.Context, c sandbox.Creation) (sandbox.Enforcement, error) {
	if off, ok := b.off.Load(c.ID); ok {
		ctx = layers.Without(ctx, off.(layers.Set))
	}
	return b.Backend.Create(ctx, c)
}

// telling is that worker's end.
type telling struct {
	*launcher.Backend
	off *sync.Map
}

func (b telling) Create(ctx context.Context, c sandbox.Creation) (sandbox.Enforcement, error) {
	b.off.Store(c.ID, layers.Off(ctx))
	return b.Backend.Create(ctx, c)
}

// Sandboxes that a broker makes pass the suite as those of its engine do.
func TestBackend(t *testing.T) {
	t.Parallel()
	b := docker.New(docker.Config{Host: testenv.Docker(t), Program: sandboxtest.BuildProbe(t)})
	t.Cleanup(func() { b.Close() })
	ln, address := unix(t)
	var off sync.Map
	serve(t, ln, told{b, &off})
	l, err := launcher.New(launcher.Config{Broker: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	sandboxtest.TestBackend(t, telling{l, &off}, sandboxtest.Options{})
}
