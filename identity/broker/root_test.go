package broker_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/testenv"
)

// Brokers that start at once in a new directory are one broker, and so is the next: what one
// has issued, all can renew.
func TestOneKey(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	f.cfg.Dir = filepath.Join(f.cfg.Dir, "new", "folder")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := broker.Sweep(t.Context(), f.cfg); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	entries, err := os.ReadDir(f.cfg.Dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
	o, err := get(t.Context(), f.serve(), f.claim)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := renew(t.Context(), f.serve(), f.claim, o); err != nil || n.State != envelope.Renewed {
		t.Errorf("got %+v, %v", n, err)
	}
	key, err := os.ReadFile(filepath.Join(f.cfg.Dir, "broker.key"))
	if err != nil {
		t.Fatal(err)
	}
	f.cfg.Dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(f.cfg.Dir, "broker.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := renew(t.Context(), f.serve(), f.claim, o); err != nil || n.State != envelope.Renewed {
		t.Errorf("a broker with a copy of the key: %+v, %v", n, err)
	}
	f.cfg.Dir = t.TempDir()
	if n, err := renew(t.Context(), f.serve(), f.claim, o); err == nil {
		t.Errorf("a broker with another key renewed: %+v", n)
	}
}

func TestBadKey(t *testing.T) {
	f := newFixture(t)
	path := filepath.Join(f.cfg.Dir, "broker.key")
	start := func() error { return broker.Sweep(t.Context(), f.cfg) }
	if err := start(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
	}{"others can read it": {string(good), 0o644}, "it is cut": {string(good[:20]), 0o600}, "it is empty": {"", 0o600}, "it is long": {string(good) + "00", 0o600}} {
		if runtime.GOOS == "windows" && c.mode != 0o600 {
			continue
		}
		if err := errors.Join(os.WriteFile(path, []byte(c.text), 0o600), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		var bad *broker.RootError
		if err := start(); !errors.As(err, &bad) || bad.File != path || strings.Contains(err.Error(), string(good[:20])) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A key that another user has put there is none.
func TestKeyOfAnother(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	f := newFixture(t)
	start := func() error { return broker.Sweep(t.Context(), f.cfg) }
	if err := errors.Join(start(), start()); err != nil { // the control: it is its own
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(f.cfg.Dir, "broker.key"), 65534, -1); err != nil {
		t.Fatal(err)
	}
	var bad *broker.RootError
	if err := start(); !errors.As(err, &bad) || !strings.Contains(err.Error(), "another user's") {
		t.Errorf("got %v", err)
	}
}

func TestBadConfig(t *testing.T) {
	f := newFixture(t)
	for want, change := range map[string]func(*broker.Config){
		"Config.Pool is required": func(c *broker.Config) { c.Pool = nil },
		`"app@1" is no image`:     func(c *broker.Config) { c.Images = []string{"app@1"} },
		"and there are none":      func(c *broker.Config) { c.Images = []string{"app"} },
		"Config.Stores is empty":  func(c *broker.Config) { c.Stores = nil },
		`no store for "x"`:        func(c *broker.Config) { c.Stores = map[string]broker.Store{"x": nil} },
		`no attestor for "box"`:   func(c *broker.Config) { c.Attestors = map[string]broker.Attestor{"box": nil} },
		`bad scheme "X:"`:         func(c *broker.Config) { c.Stores = map[string]broker.Store{"X:": f.store} },
		"Kill not below Freeze":   func(c *broker.Config) { c.Freeze, c.Kill = 2, 1 },
		"Config.TLS is required":  func(*broker.Config) {},
		"Schema":                  func(c *broker.Config) { c.Schema = "No Name" },
		"is not there, or has no": func(c *broker.Config) { c.Schema = "not_migrated" },
	} {
		cfg := f.cfg
		change(&cfg)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := broker.Serve(t.Context(), ln, cfg); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
			t.Errorf("%s: got %v", want, err)
		}
		ln.Close()
	}
}
