package sandboxtest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/sandbox"
)

func testSecrets(t *testing.T, b sandbox.Backend, o Options) {
	spec := o.Spec
	// The cases up to "engine" and "revoked" are of one attempt, in one sandbox.
	all, brokers := share(t, b, sandbox.Options{Spec: spec}), map[*sandbox.Sandbox]*broker{}
	brokered := func(name string, test func(*testing.T, *sandbox.Sandbox, *broker)) {
		all.run(name, func(t *testing.T, s *sandbox.Sandbox) {
			if brokers[s] == nil {
				brokers[s] = newBroker(1)
			}
			test(t, s, brokers[s])
		})
	}
	if s, broker := all.get(), newBroker(1); isGVisor(s) {
		brokers[s], broker.facts.Nonce[0] = broker, 0xff // of no attempt below
		switch _, err := s.Secrets().Key(bounded(t), broker.facts.Encode(), broker.public()); {
		case errors.Is(err, sandbox.ErrSecret) && strings.Contains(err.Error(), "read the memory"):
			t.Log(Refused + "Secrets") // as an old one has to
			return
		case err != nil:
			t.Fatal(err)
		}
	}
	brokered("envelope", testEnvelope)
	brokered("call", testCalled) // before there are any that stay
	brokered("redacted", testRedacted)
	brokered("command", testSecretOfCommand)
	brokered("steered", func(t *testing.T, s *sandbox.Sandbox, broker *broker) { testSteered(t, b, spec, s, broker) })
	brokered("apart", func(t *testing.T, s *sandbox.Sandbox, broker *broker) { testApart(t, b, spec, s, broker) })
	if o.Show != nil {
		brokered("engine", func(t *testing.T, s *sandbox.Sandbox, broker *broker) { testEngine(t, o, s, broker) })
	}
	// Each of these waits for its time, in a sandbox of its own: at the end, together.
	t.Run("lapse", func(t *testing.T) { t.Parallel(); testLapse(t, b, spec) })
	t.Run("strict", func(t *testing.T) { t.Parallel(); testEnds(t, b, spec, true) })
	t.Run("unrenewed", func(t *testing.T) { t.Parallel(); testEnds(t, b, spec, false) })
	brokered("revoked", testRevoked) // ends it
}

// hashed is a value as it can leave a sandbox that holds it.
func hashed(value []byte) string {
	sum := sha256.Sum256(value)
	return hex.EncodeToString(sum[:8])
}

// canary is a value that is found only where it was put.
func canary(name string) string { return fmt.Sprintf("canary-%s-%d", name, os.Getpid()) }

// testRedacted: what leaves the sandbox is without what it holds.
func testRedacted(t *testing.T, s *sandbox.Sandbox, broker *broker) {
	ctx := bounded(t)
	value := canary("redacted")
	seen := func() (out, stderr string, file error) {
		c := s.Command(program, verbPrefix+"out", "0", "out "+value+".", base64.StdEncoding.EncodeToString([]byte("u:"+value)))
		var b strings.Builder
		c.Stderr = &b
		printed, err := c.Output(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.WriteFile(ctx, "leak", []byte("PK\x03\x04"+value), 0o600); err != nil {
			t.Fatal(err)
		}
		_, file = s.ReadFile(ctx, "leak")
		return string(printed), b.String(), file
	}
	plain := base64.StdEncoding.EncodeToString([]byte("u:" + value))
	if out, stderr, file := seen(); out != "out "+value+"." || stderr != plain || file != nil {
		t.Fatalf("the control: %q, %q, %v", out, stderr, file)
	}
	broker.deliver(t, s, long, envelope.Item{Name: "TOKEN", Commands: []string{program}, Value: []byte(value)})
	if out, stderr, file := seen(); out != "out [REDACTED:TOKEN]." || !strings.Contains(stderr, "[REDACTED:TOKEN]") || strings.Contains(stderr, plain[4:12]) || !errors.Is(file, fs.ErrPermission) {
		t.Errorf("%q, %q, %v", out, stderr, file)
	}
	tree := s.Download(ctx, sandbox.Workspace, filepath.Join(t.TempDir(), "tree"), sandbox.DownloadOptions{})
	if tree == nil || !strings.Contains(tree.Error(), "TOKEN") || strings.Contains(tree.Error(), value) {
		t.Errorf("a tree: %v", tree)
	}
}

// testEnvelope: what is not for this sandbox, or was there before, brings nothing.
func testEnvelope(t *testing.T, s *sandbox.Sandbox, broker *broker) {
	k, ctx := s.Secrets(), bounded(t)
	item := envelope.Item{Name: "A", Commands: []string{program}, Value: []byte("v")}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, sandbox.ErrSecret) {
			t.Errorf("%s: %v", what, err)
		}
		c := s.Command(program, "probe:getenv", "A")
		c.Secrets = []string{"A"}
		if err := c.Run(ctx); !errors.Is(err, sandbox.ErrSecret) {
			t.Errorf("%s: a command has it: %v", what, err)
		}
	}
	refused("no facts", func() error { _, err := k.Key(ctx, []byte("x"), broker.public()); return err }())
	refused("no broker's key", func() error { _, err := k.Key(ctx, broker.facts.Encode(), nil); return err }())
	refused("an envelope before a key", k.Deliver(ctx, []byte("x")))

	hello := broker.hello(t, s)
	refused("the same nonce again", func() error { _, err := k.Key(ctx, broker.facts.Encode(), broker.public()); return err }())
	other := newBroker(1)
	refused("another broker", func() error { _, err := k.Key(ctx, other.facts.Encode(), other.public()); return err }())
	for name, change := range map[string]func(*envelope.Facts){
		"tenant": func(f *envelope.Facts) { f.Tenant = "other" }, "run": func(f *envelope.Facts) { f.Run++ }, "sandbox": func(f *envelope.Facts) { f.Sandbox = "x" },
		"workflow": func(f *envelope.Facts) { f.Workflow = "x" }, "version": func(f *envelope.Facts) { f.Version = "2" }, "step": func(f *envelope.Facts) { f.Step = "x" },
		"seq": func(f *envelope.Facts) { f.Seq++ }, "attempt": func(f *envelope.Facts) { f.Attempt++ },
	} {
		f := broker.facts
		f.Nonce[0]++
		change(&f)
		refused("another "+name, func() error { _, err := k.Key(ctx, f.Encode(), broker.public()); return err }())
	}
	other.facts = broker.facts
	forged, _ := other.seal(t, hello, long, item)
	refused("forged", k.Deliver(ctx, forged))
	raw, _ := broker.seal(t, hello, long, item)
	refused("after one that was refused", k.Deliver(ctx, raw))

	hello = broker.hello(t, s)
	raw, _ = broker.seal(t, hello, long, item)
	raw[len(raw)-1] ^= 1
	refused("altered", k.Deliver(ctx, raw))
	old, _ := broker.seal(t, broker.hello(t, s), long, item)
	broker.hello(t, s)
	refused("of an earlier key", k.Deliver(ctx, old))
	late, _ := broker.seal(t, broker.hello(t, s), envelope.Terms{Freeze: 1, Kill: time.Hour}, item)
	refused("too late", k.Deliver(ctx, late))

	raw, l := broker.seal(t, broker.hello(t, s), long, item)
	if err := k.Deliver(ctx, raw); err != nil {
		t.Fatal(err)
	}
	if err := k.Deliver(ctx, raw); !errors.Is(err, sandbox.ErrSecret) {
		t.Errorf("the same envelope again: %v", err)
	}
	c := s.Command(program, "probe:getenv", "A")
	c.Secrets = []string{"A"}
	if out, err := c.Output(ctx); err != nil || string(out) != hashed([]byte("v")) {
		t.Errorf("the control: %q, %v", out, err)
	}
	c = s.Command(program, "probe:getenv", "A")
	c.Secrets = []string{"A", "NOT_THERE"}
	if err := c.Run(ctx); !errors.Is(err, sandbox.ErrSecret) {
		t.Errorf("one that is there and one that is not: %v", err)
	}
	if err := k.Forget(ctx, l.id); err != nil { // it waits for what has some, and that command has none
		t.Error(err)
	}
	if err := k.Forget(ctx, l.id); err != nil {
		t.Errorf("forgotten twice: %v", err)
	}
	refused("forgotten", sandbox.ErrSecret)
}

// testSecretOfCommand: a command gets what it asks for, if that is for its program, and
// nothing else gets it.
func testSecretOfCommand(t *testing.T, s *sandbox.Sandbox, broker *broker) {
	ctx := bounded(t)
	token, cert := canary("token"), append([]byte{0, 0xff}, canary("cert")...)
	broker.deliver(t, s, long,
		envelope.Item{Name: "TOKEN", Commands: []string{program}, Value: []byte(token)},
		envelope.Item{Name: "CERT", Commands: []string{program}, File: true, Guest: true, Value: cert},
		envelope.Item{Name: "BY_NAME", Commands: []string{"probe"}, Value: []byte("n")},
		envelope.Item{Name: "OTHER", Commands: []string{"/bin/other"}, Value: []byte("o")},
		envelope.Item{Name: "NOBODY", Value: []byte("x")},
		envelope.Item{Name: "KEY", Guest: true, Value: []byte(canary("key"))},
	)
	file := hashed(cert) + " -r--------"
	c := s.Command(program, "probe:getenv", "TOKEN", "CERT")
	c.Secrets, c.Env = []string{"TOKEN", "CERT"}, []string{"TOKEN=not this"}
	if out, err := c.Output(ctx); err != nil || string(out) != hashed([]byte(token))+" "+file {
		t.Errorf("got %q, %v", out, err)
	}
	c = s.Command(program, "probe:env")
	c.Secrets = []string{"TOKEN"}
	if out, err := c.Output(ctx); err != nil || !strings.Contains(string(out), "TOKEN=[REDACTED:TOKEN]") || strings.Contains(string(out), token) {
		t.Errorf("what prints its own secret is read as %q, %v", out, err)
	}
	for _, env := range []string{run(t, s, "env"), func() string {
		c := s.Command(program, "probe:env")
		c.Secrets = []string{"CERT"}
		out, _ := c.Output(ctx)
		return string(out)
	}()} {
		if strings.Contains(env, "canary") || strings.Contains(env, "TOKEN") {
			t.Errorf("a command that did not ask has %q", env)
		}
	}
	guest, err := s.Guest(ctx, broker.step("KEY CERT"))
	if want := hashed([]byte(canary("key"))) + " " + file; err != nil || string(guest) != want+"|"+want {
		t.Errorf("a guest step has %q, %v", guest, err)
	}
	guest, err = s.Guest(ctx, broker.step("TOKEN CERT"))
	if want := hashed(nil) + " " + file; err != nil || string(guest) != want+"|"+want {
		t.Errorf("a guest step has what is not its own: %q, %v", guest, err)
	}
	link := sandbox.Workspace + "/other"
	run(t, s, "link", program, link)
	for _, refused := range []struct {
		name  string
		asked []string
	}{
		{program, []string{"OTHER"}}, {program, []string{"NOBODY"}}, {program, []string{"KEY"}}, {program, []string{"NONE"}},
		{program, []string{"TOKEN", "TOKEN"}}, {program, []string{"TOKEN", "OTHER"}},
		{program, []string{"BY_NAME"}}, // anybody could have put it there
		{link, []string{"OTHER"}},
	} {
		c := s.Command(refused.name, "probe:getenv", refused.asked[0])
		c.Secrets = refused.asked
		var ce *sandbox.CommandError
		if out, err := c.Output(ctx); !errors.Is(err, sandbox.ErrSecret) || !errors.As(err, &ce) || len(out) > 0 || !strings.Contains(err.Error(), refused.asked[len(refused.asked)-1]) {
			t.Errorf("%s with %v: %q, %v", refused.name, refused.asked, out, err)
		}
	}
	// By a link the program is still what it is.
	c = s.Command(link, "probe:getenv", "TOKEN")
	c.Secrets = []string{"TOKEN"}
	if out, err := c.Output(ctx); err != nil || string(out) != hashed([]byte(token)) {
		t.Errorf("by a link: %q, %v", out, err)
	}
	c = s.Command("no-such-command")
	c.Secrets = []string{"TOKEN"}
	if err := c.Run(ctx); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no command: %v", err)
	}
}

// testCalled: the function of a step has its secrets only if it is called as the broker knows the attempt. Whatever else a
// worker calls is not started, with or without an ID.
func testCalled(t *testing.T, s *sandbox.Sandbox, broker *broker) {
	ctx := bounded(t)
	other := broker.step(`[0,0]`)
	other.Step = "count"
	if out, err := s.Guest(ctx, other); err != nil || !strings.Contains(string(out), "begun 1") {
		t.Fatalf("the control, without secrets: %q, %v", out, err)
	}
	l := broker.deliver(t, s, long, envelope.Item{Name: "KEY", Guest: true, Value: []byte(canary("called"))})
	for what, change := range map[string]func(*sandbox.GuestStep){
		"workflow":        func(g *sandbox.GuestStep) { g.Workflow = "other" },
		"version":         func(g *sandbox.GuestStep) { g.Version = "" },
		"step":            func(g *sandbox.GuestStep) { *g = other },
		"run":             func(g *sandbox.GuestStep) { g.RunID = newBroker(8).step("").RunID },
		"attempt":         func(g *sandbox.GuestStep) { g.Attempt++ },
		"idempotency key": func(g *sandbox.GuestStep) { g.IdempotencyKey = newBroker(8).step("").IdempotencyKey },
	} {
		for _, id := range []string{"", "guest"} {
			g := broker.step("KEY")
			change(&g)
			g.ID = id
			var ce *sandbox.CommandError
			if out, err := s.Guest(ctx, g); !errors.Is(err, sandbox.ErrSecret) || !errors.As(err, &ce) || !strings.Contains(err.Error(), "its "+what+" differs") {
				t.Errorf("another %s: %q, %v", what, out, err)
			}
		}
	}
	if begun, err := s.ReadFile(ctx, "begun"); err != nil || string(begun) != "x" {
		t.Errorf("what was refused has left %q, %v", begun, err)
	}
	anew := broker.step("KEY")
	anew.IdempotencyKey = strings.Replace(anew.IdempotencyKey, "/", ".-1f/", 1)
	for _, g := range []sandbox.GuestStep{broker.step("KEY"), anew} {
		if out, err := s.Guest(ctx, g); err != nil || !strings.HasPrefix(string(out), hashed([]byte(canary("called")))) {
			t.Errorf("called as it is: %q, %v", out, err)
		}
	}
	if err := s.Secrets().Forget(ctx, l.id); err != nil {
		t.Error(err)
	}
}

// steering are variables by which who sets them would have a program execute, load or trust something else: one of each family.
var steering = []string{
	"LD_PRELOAD=/workspace/x.so", "LD_AUDIT=/workspace/x.so", "DYLD_INSERT_LIBRARIES=/workspace/x", "GLIBC_TUNABLES=x", "GCONV_PATH=/workspace", "LOCPATH=/workspace", "HOSTALIASES=/workspace/x",
	"HTTPS_PROXY=http://127.0.0.1:1", "https_proxy=http://127.0.0.1:1", "ALL_PROXY=socks5://127.0.0.1:1", "NO_PROXY=*",
	"SSL_CERT_FILE=/workspace/x", "SSL_CERT_DIR=/workspace", "CURL_CA_BUNDLE=/workspace/x", "REQUESTS_CA_BUNDLE=/workspace/x", "AWS_CA_BUNDLE=/workspace/x", "SSLKEYLOGFILE=/workspace/x", "OPENSSL_CONF=/workspace/x",
	"GIT_CONFIG_COUNT=1", "GIT_ASKPASS=/workspace/x", "SSH_ASKPASS=/workspace/x", "GIT_SSH_COMMAND=x", "GIT_EXEC_PATH=/workspace", "GIT_TRACE_CURL=/workspace/x",
	"GODEBUG=x509sha1=1", "GOTRACEBACK=crash", "GOFLAGS=-toolexec=/workspace/x", "NODE_OPTIONS=--require=/workspace/x", "NODE_EXTRA_CA_CERTS=/workspace/x", "npm_config_registry=http://x",
	"PYTHONPATH=/workspace", "PYTHONSTARTUP=/workspace/x", "PERL5OPT=-Mx", "PERL5LIB=/workspace", "RUBYOPT=-rx", "RUBYLIB=/workspace", "JAVA_TOOL_OPTIONS=-javaagent:/workspace/x", "CLASSPATH=/workspace",
	"BASH_ENV=/workspace/x", "BASH_FUNC_ls%%=() { x; }", "ENV=/workspace/x", "SHELLOPTS=xtrace", "SHELL=/workspace/x", "EDITOR=/workspace/x", "PAGER=/workspace/x",
	"PATH=/workspace/bin", "PATH=/usr/bin:", "PATH=", "PATH=/usr/bin:/tmp", "PATH=bin", "PATH=/usr/bin/../../tmp", "JAVA_HOME=/workspace", "GOROOT=/nowhere:/tmp/x",
}

// testSteered: what has secrets gets no variable of a worker's that could have a program give them away. Other commands get
// each.
func testSteered(t *testing.T, b sandbox.Backend, spec sandbox.Spec, s *sandbox.Sandbox, broker *broker) {
	ctx := bounded(t)
	items := []envelope.Item{{Name: "TOKEN", Commands: []string{program}, Value: []byte("v")}, {Name: "KEY", Guest: true, Value: []byte("k")}}
	broker.deliver(t, s, long, items...)
	with := func(verb string, env []string, secrets ...string) (string, error) {
		c := s.Command(program, verbPrefix+verb, "TOKEN")
		c.Env, c.Secrets = env, secrets
		out, err := c.Output(ctx)
		return string(out), err
	}
	for _, kv := range steering {
		name, _, _ := strings.Cut(kv, "=")
		if out, err := with("getenv", []string{"A=b", kv}, "TOKEN"); !errors.Is(err, sandbox.ErrSecret) || !strings.Contains(err.Error(), "variable "+name+":") {
			t.Errorf("with a secret and %s: %q, %v", kv, out, err)
		}
	}
	var all []string // each once
	for _, kv := range steering {
		if name, _, _ := strings.Cut(kv, "="); !slices.ContainsFunc(all, func(o string) bool { return strings.HasPrefix(o, name+"=") }) {
			all = append(all, kv)
		}
	}
	env, err := with("env", all)
	for _, kv := range all {
		if err != nil || !slices.Contains(strings.Split(env, "\n"), kv) {
			t.Errorf("without a secret a command has no %s: %v", kv, err)
		}
	}
	fine := []string{"A=b", "HOME=/workspace", "TMPDIR=/tmp", "XDG_CACHE_HOME=/tmp/x", "PATH=/usr/bin:/bin:/nowhere/at/all", "PYTHONUNBUFFERED=1", "GIT_AUTHOR_NAME=x", "LANG=C"}
	if out, err := with("getenv", fine, "TOKEN"); err != nil || out != hashed([]byte("v")) {
		t.Errorf("with others: %q, %v", out, err)
	}
	spec.Env = map[string]string{"SSL_CERT_FILE": "/workspace/x"}
	s, broker = start(t, ctx, b, sandbox.Options{Spec: spec}), newBroker(2)
	if out, err := s.Guest(ctx, sandbox.GuestStep{Step: "environ"}); err != nil || !strings.Contains(string(out), "SSL_CERT_FILE=/workspace/x") {
		t.Errorf("a guest without secrets: %q, %v", out, err)
	}
	broker.deliver(t, s, long, items...)
	if out, err := s.Guest(ctx, broker.step("KEY")); !errors.Is(err, sandbox.ErrSecret) || !strings.Contains(err.Error(), "variable SSL_CERT_FILE:") {
		t.Errorf("a guest with secrets: %q, %v", out, err)
	}
}

// testApart: what one command was given another cannot find, in whatever it can read.
func testApart(t *testing.T, b sandbox.Backend, spec sandbox.Spec, s *sandbox.Sandbox, broker *broker) {
	value := canary("apart")
	broker.deliver(t, s, long, envelope.Item{Name: "TOKEN", Commands: []string{program}, Value: []byte(value)},
		envelope.Item{Name: "CERT", File: true, Commands: []string{program}, Value: []byte(value)})
	if got := run(t, s, "search", value[1:]); got == "yes" { // of the runner
		t.Error("the tool runner can be searched")
	}
	c := s.Command(program, verbPrefix+"hold-secret", "TOKEN")
	c.Secrets = []string{"TOKEN", "CERT"}
	defer hanging(t, s, c)()
	if s.Enforcement().Landlock == 0 {
		if err := s.Command(program, verbPrefix+"pwd").Run(bounded(t)); !errors.Is(err, sandbox.ErrAlone) {
			t.Errorf("a command beside one with secrets, where nothing keeps them apart: %v", err)
		}
		return
	}
	if got := run(t, s, "search", value[1:]); got == "yes" {
		t.Error("another command found it")
	} else {
		t.Log(got)
	}
	ctx := layers.Without(bounded(t), layers.Landlock)
	open := start(t, ctx, b, sandbox.Options{Spec: spec})
	c = open.Command(program, verbPrefix+"hold-secret", "TOKEN")
	c.Env = []string{"TOKEN=" + value}
	defer hanging(t, open, c)()
	if got := run(t, open, "search", value[1:]); got != "yes" {
		t.Errorf("the search cannot find it where it can be found: %s", got)
	}
	newBroker(1).deliver(t, open, long, envelope.Item{Name: "TOKEN", Commands: []string{program}, Value: []byte(value)})
	alone := open.Command(program, verbPrefix+"getenv", "TOKEN")
	alone.Secrets = []string{"TOKEN"}
	if err := alone.Run(bounded(t)); !errors.Is(err, sandbox.ErrAlone) {
		t.Errorf("with a secret, beside another that could read it: %v", err)
	}
}

// testEngine: whoever may ask the engine about a sandbox learns nothing of what is in it, while
// a command has it.
func testEngine(t *testing.T, o Options, s *sandbox.Sandbox, broker *broker) {
	value := canary("engine")
	broker.deliver(t, s, long, envelope.Item{Name: "TOKEN", Commands: []string{program}, Value: []byte(value)},
		envelope.Item{Name: "CERT", File: true, Commands: []string{program}, Value: []byte(value)})
	c := s.Command(program, verbPrefix+"hold-secret", "TOKEN")
	c.Secrets = []string{"TOKEN", "CERT"}
	defer hanging(t, s, c)()
	shown := string(o.Show(t, s.ID()))
	if !strings.Contains(shown, s.ID()) {
		t.Fatalf("it is not about the sandbox: %.2000s", shown)
	}
	for _, form := range []string{value, hex.EncodeToString([]byte(value)), base64.RawStdEncoding.EncodeToString([]byte(value))[:12]} {
		if i := strings.Index(shown, form); i >= 0 {
			t.Errorf("it has %q: %q", form, shown[max(0, i-100):min(len(shown), i+100)])
		}
	}
}

// testLapse: what is not renewed is frozen, and a renewal thaws it.
func testLapse(t *testing.T, b sandbox.Backend, spec sandbox.Spec) {
	s := start(t, bounded(t), b, sandbox.Options{Spec: spec})
	ctx := bounded(t)
	stdin, typed := io.Pipe()
	printed, stdout := io.Pipe()
	c := s.Command(program, verbPrefix+"answer")
	c.Stdin, c.Stdout = stdin, stdout
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(printed)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	l := newBroker(1).deliver(t, s, envelope.Terms{Freeze: 2 * time.Second, Kill: time.Hour}, envelope.Item{Name: "TOKEN", Commands: []string{program}, Value: []byte("v")})
	awaitLapse(t, s)
	awaitState(t, s, verbPrefix+"answer", 'T')
	if _, err := s.Guest(ctx, sandbox.GuestStep{Step: "nothing"}); !errors.Is(err, sandbox.ErrLapsed) {
		t.Errorf("a guest step: %v", err)
	}
	if err := l.renew(t, s, 0); !errors.Is(err, sandbox.ErrSecret) {
		t.Errorf("a renewal without a state: %v", err)
	}
	for name, r := range map[string]envelope.Renewal{
		"no challenge": {Envelope: l.id, Counter: 100, State: envelope.Renewed},
		"no envelope":  {Counter: 100, State: envelope.Renewed},
	} {
		if err := s.Secrets().Renew(ctx, r.Encode(l.key)); !errors.Is(err, sandbox.ErrSecret) {
			t.Errorf("a renewal with %s: %v", name, err)
		}
	}
	first, err := s.Secrets().Challenge(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Secrets().Challenge(ctx); err != nil {
		t.Fatal(err)
	}
	late := envelope.Renewal{Envelope: l.id, Challenge: [32]byte(first), State: envelope.Renewed}
	if err := s.Secrets().Renew(ctx, late.Encode(l.key)); !errors.Is(err, sandbox.ErrSecret) {
		t.Errorf("a renewal that answers an earlier challenge: %v", err)
	}
	if err := s.Command(program, verbPrefix+"pwd").Run(ctx); !errors.Is(err, sandbox.ErrLapsed) {
		t.Errorf("refused renewals thaw: %v", err)
	}
	answered := make(chan string, 1)
	go func() {
		line, _ := lines.ReadString('\n')
		answered <- line
	}()
	go func() { _, _ = io.WriteString(typed, "go on\n") }()
	for done := false; !done; { // as a worker does, and a slow machine needs
		if err := l.renew(t, s, envelope.Renewed); err != nil {
			t.Fatal(err)
		}
		select {
		case line := <-answered:
			done = true
			if line != "go on\n" {
				t.Errorf("answered %q", line)
			}
		default:
		}
	}
	typed.Close()
	awaitLapse(t, s) // again
	if err := s.Secrets().Forget(ctx, l.id); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil { // what has none of the secrets goes on when they are forgotten
		t.Errorf("a command that had no secret: %v", err)
	}
	stdout.Close()
}

// awaitLapse waits until nothing can be started.
func awaitLapse(t *testing.T, s *sandbox.Sandbox) {
	t.Helper()
	for {
		ctx, cancel := context.WithCancel(bounded(t))
		c := s.Command(program, verbPrefix+"pwd")
		err := c.Start(ctx)
		cancel() // one that was started is perhaps frozen, and can be killed all the same
		if err == nil {
			_ = c.Wait()
			continue
		}
		if !errors.Is(err, sandbox.ErrLapsed) {
			t.Fatal(err)
		}
		return
	}
}

// awaitState waits until a process with an argument has a state.
func awaitState(t *testing.T, s *sandbox.Sandbox, arg string, state byte) {
	t.Helper()
	ctx := bounded(t)
	seen := "none"
	for ctx.Err() == nil {
		all, err := fs.Glob(s.FS(), "proc/[0-9]*")
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range all {
			args, _ := fs.ReadFile(s.FS(), dir+"/cmdline") // or it has ended
			raw, _ := fs.ReadFile(s.FS(), dir+"/stat")
			if i := strings.LastIndexByte(string(raw), ')'); i > 0 && strings.Contains(string(args), arg) {
				if seen = string(raw); raw[i+2] == state {
					return
				}
			}
		}
	}
	t.Errorf("no process %s is in state %c: %s", arg, state, seen)
}

// testEnds: without a renewal for long enough, or at once if a secret is strict, the
// sandbox ends.
func testEnds(t *testing.T, b sandbox.Backend, spec sandbox.Spec, strict bool) {
	s := start(t, bounded(t), b, sandbox.Options{Spec: spec})
	terms := envelope.Terms{Freeze: 2 * time.Second, Kill: 2 * time.Second}
	if strict {
		terms.Kill = time.Hour
	}
	c := s.Command(program, verbPrefix+"hang")
	w := newWaiter()
	c.Stdout = w
	if err := c.Start(bounded(t)); err != nil {
		t.Fatal(err)
	}
	w.wait(t)
	newBroker(1).deliver(t, s, terms, envelope.Item{Name: "TOKEN", Strict: strict, Value: []byte("v")})
	if err := c.Wait(); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("got %v", err)
	}
}

// testRevoked: the broker's word ends what runs before the worker has passed it on, and
// the sandbox a little later.
func testRevoked(t *testing.T, s *sandbox.Sandbox, broker *broker) {
	l := broker.deliver(t, s, long, envelope.Item{Name: "TOKEN", Commands: []string{program}, Value: []byte("v")})
	var ends []*sandbox.Cmd
	for _, asked := range [][]string{{"TOKEN"}, nil} {
		c := s.Command(program, verbPrefix+"hang")
		if c.Secrets = asked; asked == nil && s.Enforcement().Landlock == 0 {
			break
		}
		w := newWaiter()
		c.Stdout = w
		if err := c.Start(bounded(t)); err != nil {
			t.Fatal(err)
		}
		w.wait(t)
		ends = append(ends, c)
	}
	if err := l.renew(t, s, envelope.Revoked); err != nil {
		t.Errorf("what the broker said: %v", err)
	}
	for _, c := range ends {
		var ee *sandbox.ExitError
		if err := c.Wait(); !errors.Is(err, sandbox.ErrLost) && (!errors.As(err, &ee) || ee.Signal != "SIGKILL") {
			t.Errorf("a command ended with %v", err)
		}
	}
	if err := s.Command(program, verbPrefix+"pwd").Run(bounded(t)); !errors.Is(err, sandbox.ErrLapsed) && !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("a command afterwards: %v", err)
	}
}
