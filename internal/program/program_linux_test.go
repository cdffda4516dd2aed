package program

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
)

// finder is a program that prints what Find says when it runs. It is compiled
// from a module of its own, which tests may change.
type finder struct {
	dir   string
	cache string
}

const finderMain = `package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"

	"example.test/finder/program"
)

var _ net.Conn

const revision = "1"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "revision" {
		os.Stdout.WriteString(revision)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	compiler := make(chan string, 1)
	if pipe, ok := os.LookupEnv("CANCEL_BY"); ok {
		go func() {
			pid, _ := os.ReadFile(pipe)
			compiler <- string(pid)
			cancel()
		}()
	}
	var log strings.Builder
	p, err := program.Find(program.WithLogger(ctx, slog.New(slog.NewTextHandler(&log, nil))), program.Want{Arch: os.Getenv("WANT_ARCH")})
	var perr *program.Error
	out := struct {
		program.Program
		Culprit, Reason, Log, Compiler string
	}{Program: p, Log: log.String()}
	if errors.Is(err, context.Canceled) {
		out.Reason, out.Compiler = "canceled", <-compiler
	}
	if errors.As(err, &perr) {
		out.Culprit, out.Reason = perr.Program, perr.Error()
	}
	json.NewEncoder(os.Stdout).Encode(out)
}
`

type found struct {
	Program
	Culprit, Reason, Log, Compiler string
}

func newFinder(t *testing.T) finder {
	t.Helper()
	f := finder{dir: t.TempDir(), cache: t.TempDir()}
	write(t, filepath.Join(f.dir, "go.mod"), "module example.test/finder\n\ngo 1.26\n")
	write(t, filepath.Join(f.dir, "main.go"), finderMain)
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sources {
		if strings.HasSuffix(s, "_test.go") {
			continue
		}
		b, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(f.dir, "program", s), string(b))
	}
	return f
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// command runs in dir with the finder's own cache for built programs and the
// go command's usual cache.
func (f finder) command(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	gocache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOCACHE="+strings.TrimSpace(string(gocache)), "GOFLAGS=", "GOWORK=off", "XDG_CACHE_HOME="+f.cache)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (f finder) find(t *testing.T, dir string, env []string, name string, args ...string) found {
	t.Helper()
	var r found
	out := f.command(t, dir, env, name, args...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	return r
}

// dynamic makes go link dynamically whether or not a C compiler is there.
var dynamic = []string{"-ldflags=-linkmode=internal -I /lib64/ld-linux-x86-64.so.2"}

func dynamicFlags(t *testing.T) []string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err == nil {
		return nil
	}
	return dynamic
}

func TestFindTakesOwnStaticProgram(t *testing.T) {
	f := newFinder(t)
	exe := filepath.Join(t.TempDir(), "finder")
	f.command(t, f.dir, []string{"CGO_ENABLED=0"}, "go", "build", "-o", exe, ".")
	got := f.find(t, "/", nil, exe)
	if got.Origin != "own" || got.Path != "/proc/self/exe" || got.Loader != "" {
		t.Errorf("static program: got %+v", got)
	}
}

func TestFindBuildsStaticTwin(t *testing.T) {
	f := newFinder(t)
	exe := filepath.Join(t.TempDir(), "finder")
	flags := dynamicFlags(t)
	f.command(t, f.dir, nil, "go", append(append([]string{"build", "-o", exe}, flags...), ".")...)
	if p, err := inspect(exe); err != nil || p.Loader == "" {
		t.Fatalf("the test's program is not dynamic: %+v, %v", p, err)
	}

	first := f.find(t, "/", nil, exe)
	if first.Origin != "built" || first.Loader != "" {
		t.Fatalf("dynamic program: got %+v", first)
	}
	if n := strings.Count(first.Log, "program=example.test/finder"); n != 2 || !strings.Contains(first.Log, "took=") {
		t.Errorf("of the build was logged: %s", first.Log)
	}
	if p, err := inspect(first.Path); err != nil || p.Loader != "" || p.Arch != runtime.GOARCH {
		t.Errorf("what was built: %+v, %v", p, err)
	}

	// The second time it comes from the cache: a toolchain that is gone is not missed.
	if again := f.find(t, "/", []string{"PATH=/nonexistent"}, exe); again.Path != first.Path || again.Log != "" {
		t.Errorf("second call: %+v, want %s", again, first.Path)
	}

	// Sources that are no longer the program's are refused, until it is built again.
	write(t, filepath.Join(f.dir, "main.go"), strings.Replace(finderMain, `revision = "1"`, `revision = "2"`, 1))
	if err := os.RemoveAll(f.cache); err != nil {
		t.Fatal(err)
	}
	if stale := f.find(t, "/", nil, exe); !strings.Contains(stale.Reason, "not those it was built from") || stale.Culprit != "example.test/finder" {
		t.Errorf("changed source: got %+v", stale)
	}
	f.command(t, f.dir, nil, "go", append(append([]string{"build", "-o", exe}, flags...), ".")...)
	second := f.find(t, "/", nil, exe)
	if second.Origin != "built" || second.Path == first.Path {
		t.Fatalf("rebuilt program: got %+v, first was %s", second, first.Path)
	}
	if rev := f.command(t, "/", nil, second.Path, "revision"); rev != "2" {
		t.Errorf("built program has revision %q, want 2", rev)
	}
}

// A build ends with its context, with the compilers that it has started, and leaves nothing.
func TestBuildIsCanceled(t *testing.T) {
	f := newFinder(t)
	exe := filepath.Join(t.TempDir(), "finder")
	f.command(t, f.dir, nil, "go", append(append([]string{"build", "-o", exe}, dynamicFlags(t)...), ".")...)
	// What compiles says which process it is, as its first word, and hangs.
	pipe, compiler := filepath.Join(t.TempDir(), "pipe"), filepath.Join(t.TempDir(), "compiler")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(compiler, []byte("#!/bin/sh\ncase \"$*\" in *-V=full*) exec \"$@\";; esac\nprintf $$ >"+pipe+"\nexec sleep 1000\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	got := f.find(t, "/", []string{"CANCEL_BY=" + pipe, "GOFLAGS=-toolexec=" + compiler}, exe)
	if got.Reason != "canceled" || got.Path != "" {
		t.Errorf("got %+v", got)
	}
	testenv.Eventually(t, "the compiler ends", func() bool {
		stat, err := os.ReadFile("/proc/" + got.Compiler + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	if left, err := os.ReadDir(filepath.Join(f.cache, "stepward", "programs")); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}

// A program of go run comes out of the go command's cache, which may be anywhere,
// and may be older than its sources, which a checkout of the same ones writes.
func TestFindUnderGoRun(t *testing.T) {
	f := newFinder(t)
	args := append(append([]string{"run"}, dynamicFlags(t)...), ".")
	first := f.find(t, f.dir, nil, "go", args...)
	if first.Origin != "built" || first.Loader != "" {
		t.Fatalf("go run: got %+v", first)
	}
	write(t, filepath.Join(f.dir, "main.go"), strings.Replace(finderMain, `revision = "1"`, `revision = "3"`, 1))
	second := f.find(t, f.dir, nil, "go", args...)
	if second.Path == first.Path || second.Reason != "" {
		t.Fatalf("go run after a change: %+v, before: %+v", second, first)
	}
	if rev := f.command(t, "/", nil, second.Path, "revision"); rev != "3" {
		t.Errorf("built program has revision %q, want 3", rev)
	}

	elsewhere := filepath.Join(t.TempDir(), "finder")
	write(t, filepath.Join(f.dir, "main.go"), finderMain)
	for name, args := range map[string][]string{
		"written again": args,
		"elsewhere":     append([]string{"run", "-exec", `sh -c 'cp "$0" ` + elsewhere + ` && exec ` + elsewhere + `'`}, args[1:]...),
	} {
		if err := os.RemoveAll(f.cache); err != nil {
			t.Fatal(err)
		}
		if got := f.find(t, f.dir, nil, "go", args...); got.Path != first.Path {
			t.Errorf("go run, %s: %+v, want %+v", name, got, first)
		}
	}
}

// What go run started and what is there now differ: the program itself changes
// its source before it looks.
func TestFindUnderGoRunOfChangedSource(t *testing.T) {
	f := newFinder(t)
	write(t, filepath.Join(f.dir, "change.go"), `package main

import "os"

func init() { os.WriteFile("change2.go", []byte("package main\n\nconst changed = true\n"), 0o644) }
`)
	got := f.find(t, f.dir, nil, "go", append(append([]string{"run"}, dynamicFlags(t)...), ".")...)
	if got.Path != "" || !strings.Contains(got.Reason, "not those it was built from") {
		t.Errorf("source changed after go run: got %+v", got)
	}
}

func TestFindSaysWhatToDo(t *testing.T) {
	f := newFinder(t)
	exe := filepath.Join(t.TempDir(), "finder")
	f.command(t, f.dir, nil, "go", append(append([]string{"build", "-o", exe}, dynamicFlags(t)...), ".")...)
	trimmed := filepath.Join(t.TempDir(), "trimmed")
	f.command(t, f.dir, nil, "go", append(append([]string{"build", "-trimpath", "-o", trimmed}, dynamicFlags(t)...), ".")...)
	files := filepath.Join(t.TempDir(), "files")
	f.command(t, f.dir, nil, "go", append(append([]string{"build", "-o", files}, dynamicFlags(t)...), "main.go")...)

	for _, c := range []struct {
		name, exe, want string
		env             []string
	}{
		{"no toolchain", exe, "no Go toolchain", []string{"PATH=/nonexistent"}},
		{"no sources", trimmed, "sources are not at hand", nil},
		{"single files", files, "go run .", nil},
		{"no cache", exe, "no cache directory", []string{"XDG_CACHE_HOME=", "HOME="}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := f.find(t, "/", c.env, c.exe)
			if got.Path != "" || !strings.Contains(got.Reason, c.want) || !strings.Contains(got.Reason, "CGO_ENABLED=0") || got.Culprit == "" {
				t.Errorf("got %+v, want a reason with %q and what to do", got, c.want)
			}
		})
	}
}

func TestFindInTestProgram(t *testing.T) {
	self, err := inspect("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Find(t.Context(), Want{})
	if self.Loader == "" {
		if err != nil || got.Origin != "own" {
			t.Errorf("static test program: %+v, %v", got, err)
		}
		return
	}
	var perr *Error
	if !errors.As(err, &perr) || !strings.Contains(perr.Reason, "a test cannot be rebuilt") {
		t.Errorf("dynamic test program: got %+v, %v", got, err)
	}
}

func TestFindConfigured(t *testing.T) {
	other := map[string]string{"amd64": "arm64"}[runtime.GOARCH]
	if other == "" {
		other = "amd64"
	}
	f := newFinder(t)
	exe := filepath.Join(t.TempDir(), "finder")
	f.command(t, f.dir, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + other}, "go", "build", "-o", exe, ".")
	darwin := filepath.Join(t.TempDir(), "darwin")
	f.command(t, f.dir, []string{"CGO_ENABLED=0", "GOOS=darwin"}, "go", "build", "-o", darwin, ".")
	script := filepath.Join(t.TempDir(), "script")
	write(t, script, "#!/bin/sh\n")

	if p, err := Find(t.Context(), Want{Configured: exe, Arch: other}); err != nil || p.Origin != "configured" || p.Arch != other {
		t.Errorf("configured: %+v, %v", p, err)
	}
	for name, w := range map[string]Want{
		"other machine": {Configured: exe},
		"other system":  {Configured: darwin},
		"script":        {Configured: script},
		"missing":       {Configured: "/nonexistent/program"},
	} {
		var perr *Error
		if p, err := Find(t.Context(), w); !errors.As(err, &perr) || perr.Program != w.Configured {
			t.Errorf("%s: got %+v, %v, want an *Error naming %s", name, p, err, w.Configured)
		}
	}
}

func TestInspectLoader(t *testing.T) {
	p, err := inspect("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// What the kernel mapped agrees with what the header says.
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Contains(string(maps), "/ld-")
	if linked != (p.Loader != "") {
		t.Errorf("loader %q, but loader mapped: %v", p.Loader, linked)
	}
	if p.Arch != runtime.GOARCH {
		t.Errorf("arch %s", p.Arch)
	}
}
