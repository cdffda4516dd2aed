package bootstrap_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/egress"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/worker/bootstrap"
	"github.com/stepward/stepward/workflow"
)

// call asks a host with a key that never is in the sandbox, by a guest and by what commands there are.
var call = workflow.DurableWorkflow[[]string, []string]{Name: "call"}

var (
	reaching = sandbox.Spec{Network: sandbox.NetworkPolicy{Allow: []string{"example.com:443", "other.invalid:443"}}}

	// askGuest returns what it was given, and the answers of both hosts.
	askGuest = workflow.NewStep("ask", func(ctx context.Context, _ struct{}) (out []string, err error) {
		key := os.Getenv("DEPLOY_TOKEN")
		for _, host := range []string{"example.com", "other.invalid"} {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/", nil)
			if err != nil {
				return nil, err
			}
			r.Header.Set("Authorization", "Bearer "+key)
			resp, err := http.DefaultClient.Do(r)
			if err != nil { // that host's certificate is nobody's
				out = append(out, host+": no")
				continue
			}
			body, err := io.ReadAll(resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err != nil {
				return nil, err
			}
			out = append(out, host+": "+string(body))
		}
		return append(out, key), nil
	}, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"DEPLOY_TOKEN"}, Sandbox: reaching, Retry: workflow.Retry{MaxAttempts: 1}})

	// askTools runs shell commands, and returns what each has said.
	askTools = workflow.NewToolStep("tools", func(ctx context.Context, sb *sandbox.Sandbox, scripts []string) (out []string, err error) {
		for _, s := range scripts {
			c := sb.Command("sh", "-c", s)
			c.Secrets = []string{"DEPLOY_TOKEN"}
			said, err := c.Output(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s, err)
			}
			out = append(out, string(said))
		}
		return out, nil
	}, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"DEPLOY_TOKEN"}, Sandbox: reaching, Retry: workflow.Retry{MaxAttempts: 1}})

	callV1 = workflow.Define(call, func(ctx workflow.Context, scripts []string) ([]string, error) {
		guest, err := askGuest.Run(ctx, struct{}{})
		if err != nil {
			return nil, err
		}
		tools, err := askTools.Run(ctx, scripts)
		return append(guest, tools...), err
	}, workflow.Options{Steps: []workflow.Declared{askGuest, askTools}})
)

// A key that is put into requests is in no sandbox: a guest, curl and whoever else trusts what variables name reach the
// host with it, and find it nowhere, in no process that they can see, in no file, and not in what the host echoes.
func TestInject(t *testing.T) {
	var mu sync.Mutex
	var got []string
	h := injects(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.Host+" "+r.Header.Get("Authorization"))
		fmt.Fprintf(w, "you are %s, or %s", r.Header.Get("Authorization"), base64.StdEncoding.EncodeToString([]byte(r.Header.Get("Authorization"))))
	})

	// What a program can look through: its environment and memory, all processes, all files that are its own.
	scripts := []string{`echo "$DEPLOY_TOKEN"; { env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /tmp/* /workspace/* 2>/dev/null; } | grep -c -a "cana[r]y"; true`}
	asks := 0
	if _, err := exec.LookPath("/usr/bin/curl"); err == nil {
		asks++
		scripts = append(scripts, `curl -sS -H "Authorization: Bearer $DEPLOY_TOKEN" https://example.com/`, `curl -sS -u "git:$DEPLOY_TOKEN" https://example.com/`)
	}
	if _, err := exec.LookPath("/usr/bin/python3"); err == nil {
		scripts = append(scripts, `/usr/bin/python3 -c 'import os, urllib.request as u; print(u.urlopen(u.Request("https://example.com/", headers={"Authorization": "Bearer " + os.environ["DEPLOY_TOKEN"]})).read().decode())'`)
	}
	run, err := call.Enqueue(t.Context(), h.client, scripts, workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := outcome(t, h.client, run)
	if err != nil {
		t.Fatalf("%v\n%s", err, h.log)
	}
	const answer = "you are Bearer [REDACTED:DEPLOY_TOKEN], or [REDACTED:DEPLOY_TOKEN]"
	if len(out) != 3+len(scripts) || !strings.HasPrefix(out[0], "example.com: you are Bearer [REDACTED:DEPLOY_TOKEN], or ") || out[1] != "other.invalid: no" || !strings.HasPrefix(out[2], "stepward_") {
		t.Fatalf("got %q", out)
	}
	if !strings.HasPrefix(out[3], "stepward_") || !strings.HasSuffix(out[3], "\n0\n") || strings.HasPrefix(out[3], out[2]) {
		t.Errorf("a command has %q", out[3])
	}
	for _, said := range out[4:] {
		if !strings.Contains(said, "[REDACTED:DEPLOY_TOKEN]") {
			t.Errorf("got %q, want %q", said, answer)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	want := "example.com Bearer " + token + "acme"
	if len(got) != len(scripts) || got[0] != want || got[len(got)-1] != want {
		t.Errorf("the host saw %q", got)
	}
	events, err := audit.Events(t.Context(), h.cfg.Pool, audit.Filter{Schema: h.cfg.Schema, Run: run.ID})
	if err != nil {
		t.Fatal(err)
	}
	injected := 0
	for _, e := range events {
		if strings.Contains(string(e.Detail), "canary") {
			t.Errorf("%s has the value: %s", e.Kind, e.Detail)
		}
		if e.Kind == audit.KeyInjected {
			injected++
		}
	}
	if injected < 1 || strings.Contains(fmt.Sprint(out), "canary") || strings.Contains(h.log.String(), "canary") {
		t.Errorf("%d events of %d kinds of use; the log is\n%s", injected, 1+asks, h.log)
	}
}

// injects starts a worker and a broker that puts acme's token into requests to example.com, whose certificate is known to
// the broker only.
func injects(t *testing.T, serve http.HandlerFunc) harbour {
	t.Helper()
	host := httptest.NewTLSServer(serve)
	t.Cleanup(host.Close)
	roots := x509.NewCertPool()
	roots.AddCert(host.Certificate())
	key := identity.Key{Ref: "file://deploy-token", Commands: []string{"sh"}, Inject: &identity.Inject{Hosts: []string{"example.com"}}}
	return reaches(t, host, key, func(cfg *broker.Config) { cfg.Roots = roots })
}

// reaches starts a worker and a broker, for which the test's host is what all names lead to, and gives acme a key.
func reaches(t *testing.T, host *httptest.Server, key identity.Key, configure func(*broker.Config)) harbour {
	t.Helper()
	network := egress.Network{
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("93.184.216.34")}, nil
		},
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", host.Listener.Addr().String())
		},
	}
	dir, err := os.MkdirTemp("", "broker") // short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	h := newHarbour(t, worker.Config{Broker: "unix://" + path, Workflows: []*workflow.Definition{callV1}})
	p, err := h.profiles.Get(t.Context(), "acme", "main")
	if err != nil {
		t.Fatal(err)
	}
	p.Keys["DEPLOY_TOKEN"] = key
	if err := h.profiles.Put(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	cfg, err := bootstrap.FileStore(os.Getenv(envStore))(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Pool, cfg.Schema = h.cfg.Pool, h.cfg.Schema
	configure(&cfg)
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(egress.WithNetwork(context.Background(), network))
	done := make(chan error, 1)
	go func() { done <- broker.Serve(ctx, ln, cfg) }()
	testenv.Stopper(t, "broker.Serve", cancel, done)
	h.stop() // it is in no such network
	h.stop = workIn(egress.WithNetwork(context.Background(), network), t, h.cfg)
	t.Cleanup(h.stop) // before its broker
	return h
}
