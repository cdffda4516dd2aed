package bootstrap_test

import (
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// Git clones and pushes with a key that is in no sandbox, by the password of an address and by a header: the host has
// the key, and what git says, writes and sends elsewhere has the placeholder, or that it was taken out.
func TestInjectGit(t *testing.T) {
	testenv.Require(t, testenv.PartGit)
	git := func(args ...string) string {
		t.Helper()
		c := exec.Command("git", args...)
		c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	root := t.TempDir()
	repo := filepath.Join(root, "app.git")
	git("init", "-q", "--bare", "-b", "main", repo)
	git("-C", repo, "config", "http.receivepack", "true")
	commit := git("-C", repo, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit-tree", "-m", "first", git("-C", repo, "hash-object", "-t", "tree", "-w", "/dev/null"))
	git("-C", repo, "update-ref", "refs/heads/main", commit)

	backend := &cgi.Handler{Path: filepath.Join(git("--exec-path"), "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}}
	var mu sync.Mutex
	got := map[string][]string{} // what each host was sent
	h := injects(t, func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		mu.Lock()
		got[r.Host] = append(got[r.Host], user+":"+password)
		mu.Unlock()
		switch {
		case strings.HasPrefix(r.URL.Path, "/moved") && r.Host == "example.com":
			http.Redirect(w, r, "https://other.invalid/app.git"+strings.TrimPrefix(r.URL.RequestURI(), "/moved.git"), http.StatusFound)
		case password != token+"acme" && r.Host == "example.com":
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
		case strings.HasPrefix(r.URL.Path, "/denied"):
			w.Header().Set("Content-Type", "text/plain") // git shows it
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte("not for " + password + ", nor " + r.Header.Get("Authorization") + "\n"))
		default:
			r.RemoteAddr, r.TLS = "192.0.2.1:1", nil
			cgiUser(backend, user).ServeHTTP(w, r)
		}
	})

	const prepare = `cd /workspace && export GIT_TERMINAL_PROMPT=0 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com; `
	const header = `-c http.extraHeader="Authorization: Basic $(printf 'x-access-token:%s' "$DEPLOY_TOKEN" | base64 -w0)" `
	scripts := []string{
		// 401 first, and then the password of the address; .git/config has the address.
		`{ git clone -q "https://git:$DEPLOY_TOKEN@example.com/app.git" a && cd a && git commit -q --allow-empty -m second && git push -q origin HEAD:refs/heads/pushed; } 2>&1 && git log --format=%s`,
		`{ git ` + header + `clone -q https://example.com/app.git b && cd b && git rev-parse HEAD; } 2>&1`,
		`git -c credential.helper='!f() { echo username=git; echo "password=$DEPLOY_TOKEN"; }; f' ls-remote https://example.com/app.git refs/heads/pushed 2>&1 | wc -l`,
		`git clone "https://git:$DEPLOY_TOKEN@example.com/denied.git" c 2>&1; true`,
		// Git goes on at the other host, with its header. The sandbox trusts nobody there, unless it is told to.
		`git -c http.sslVerify=false -c http.followRedirects=true ` + header + `clone -q https://example.com/moved.git d 2>&1 && git -C d rev-parse HEAD`,
		`GIT_TRACE=1 GIT_TRACE_CURL=1 GIT_TRACE_REDACT=0 git clone "https://git:$DEPLOY_TOKEN@example.com/app.git" e >trace 2>&1; wc -l <trace
		{ env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; find / /workspace /tmp -xdev -user "$(id -u)" -type f ! -path "/proc/*" ! -path "/sys/*" ! -path /workspace/found -exec cat {} +; } 2>/dev/null >found
		grep -c -a "$DEPLOY_TOKEN" found; grep -c -a "cana[r]y" found; true`,
	}
	for n := range scripts {
		scripts[n] = prepare + scripts[n]
	}
	run, err := call.Enqueue(t.Context(), h.client, scripts, workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := outcome(t, h.client, run)
	if err != nil {
		t.Fatalf("%v\n%s", err, h.log)
	}
	const taken = "[REDACTED:DEPLOY_TOKEN]"
	said := out[3:]
	for n, want := range map[int]string{0: "second\nfirst\n", 1: commit + "\n", 2: "1\n", 4: commit + "\n"} {
		if said[n] != want {
			t.Errorf("git says %q, want %q", said[n], want)
		}
	}
	if pushed := git("-C", repo, "log", "--format=%s", "pushed"); pushed != "second\nfirst" {
		t.Errorf("the host was pushed %q", pushed)
	}
	if !strings.Contains(said[3], "remote: not for "+taken+", nor Basic ") || !strings.Contains(said[3], "error: 403") {
		t.Errorf("of what the host echoes git says %q", said[3])
	}
	// Lines of the trace, lines that have the placeholder, lines that have the value.
	var traced, placeholders, values int
	if n, err := fmt.Sscan(said[5], &traced, &placeholders, &values); n != 3 || traced < 50 || placeholders < 5 || values != 0 {
		t.Errorf("in a trace of %d lines and all files and processes there are %d lines with the placeholder, %d with the value, %v", traced, placeholders, values, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if seen := got["example.com"]; !slices.Contains(seen, ":") || !slices.Contains(seen, "git:"+token+"acme") || !slices.Contains(seen, "x-access-token:"+token+"acme") {
		t.Errorf("the host saw %q", seen)
	}
	if moved := got["other.invalid"]; !slices.ContainsFunc(moved, func(s string) bool { return strings.HasPrefix(s, "x-access-token:stepward_") }) ||
		strings.Contains(fmt.Sprint(moved), "canary") {
		t.Errorf("the host of a redirect saw %q, want the placeholder", moved)
	}
	if strings.Contains(fmt.Sprint(out), "canary") || strings.Contains(h.log.String(), "canary") {
		t.Errorf("git says %q; the log is\n%s", said, h.log)
	}
}

// Gh, GitHub's own command, which sends its key in a header and knows no other, does so through the broker, too.
func TestInjectGh(t *testing.T) {
	testenv.Require(t, testenv.PartGh)
	var mu sync.Mutex
	var got []string
	h := injects(t, func(w http.ResponseWriter, r *http.Request) {
		said := r.Header.Get("Authorization")
		mu.Lock()
		got = append(got, r.Host+" "+r.URL.Path+" "+said)
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Host == "example.com" && r.URL.Path == "/api/v3/moved":
			http.Redirect(w, r, "https://other.invalid/api/v3/user", http.StatusFound)
		case said != "token "+token+"acme":
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"message": "who is %s?"}`, said)
		case r.URL.Path == "/api/v3/denied":
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"message": "not for %s"}`, said)
		default:
			_, _ = w.Write([]byte(`{"login": "octocat"}`))
		}
	})
	const gh = `cd /workspace && export HOME=/workspace GH_HOST=example.com GH_ENTERPRISE_TOKEN="$DEPLOY_TOKEN" GH_PROMPT_DISABLED=1 NO_COLOR=1 GH_NO_UPDATE_NOTIFIER=1; `
	run, err := call.Enqueue(t.Context(), h.client, []string{
		gh + `gh api user --jq .login 2>&1`,
		gh + `gh api denied 2>&1; true`,
		gh + `gh api moved 2>&1; true`,
		gh + `GH_ENTERPRISE_TOKEN=another gh api user 2>&1; true`,
		gh + `gh auth status --show-token 2>&1; GH_DEBUG=api gh api user >trace 2>&1; wc -l <trace; cat trace .config/gh/* /proc/[0-9]*/environ 2>/dev/null | grep -c -a "cana[r]y"; true`,
	}, workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := outcome(t, h.client, run)
	if err != nil {
		t.Fatalf("%v\n%s", err, h.log)
	}
	const taken = "[REDACTED:DEPLOY_TOKEN]"
	said := out[3:]
	if said[0] != "octocat\n" || !strings.Contains(said[1], "gh: not for token "+taken+" (HTTP 403)") || !strings.Contains(said[2], "other.invalid") || !strings.Contains(said[3], "gh: who is token another? (HTTP 401)") {
		t.Errorf("gh says %q", said)
	}
	status, traced, _ := strings.Cut(said[4], "Token: stepward_")
	var lines, values int
	if n, err := fmt.Sscan(traced[min(len(traced), 40):], &lines, &values); n != 2 || !strings.Contains(status, "Logged in to example.com") || lines < 10 || values != 0 {
		t.Errorf("of its key gh says %q, and in its trace of %d lines, its files and all processes %d lines have it, %v", said[4], lines, values, err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{"user token " + token + "acme", "denied token " + token + "acme", "moved token " + token + "acme", "user token another"} {
		if want = "example.com /api/v3/" + want; !slices.Contains(got, want) {
			t.Errorf("the host saw %q, and not %q", got, want)
		}
	}
	if strings.Contains(fmt.Sprint(got), "other.invalid") || strings.Contains(fmt.Sprint(got), "stepward_") || strings.Contains(fmt.Sprint(out), "canary") || strings.Contains(h.log.String(), "canary") {
		t.Errorf("the hosts saw %q, gh says %q; the log is\n%s", got, said, h.log)
	}
}

// cgiUser returns the handler for a user whom the server knows: without one git takes no push.
func cgiUser(h *cgi.Handler, user string) *cgi.Handler {
	of := *h
	of.Env = append([]string{"REMOTE_USER=" + user}, h.Env...)
	return &of
}
