package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
)

func TestSampleBrief(t *testing.T) {
	testenv.Require(t, testenv.PartPostgres)
	r := newRun(t)
	r.start()
	r.wait(0)
	r.wantSite(pagesOfSample...)
	r.wantInPage("index.html", `<a href="services.html">services</a>`)
	r.wantEachOnce("local", len(pagesOfSample))
	if strings.ContainsAny(r.stdout.text(), "\x1b\r") {
		t.Error("control characters, and no terminal")
	}

	// Another brief into the same folder: pages that it does not have go.
	again := newRun(t)
	again.out = r.out
	again.start(again.file("small.md", "# Small\n\nGo [on](two.html#part).\n\n## Two\n\n### Part\n\nThe end.\n"))
	again.wait(0)
	again.wantSite("index.html", "two.html")
	again.wantInPage("index.html", `<h1 id="small">Small</h1>`)
	again.wantEachOnce("local", 2)
}

func TestRoot(t *testing.T) {
	testenv.Require(t, testenv.PartPostgres, testenv.PartRoot)
	r := newRun(t)
	r.asTester()
	r.start("-backend", "local")
	r.wait(0)
	r.wantSite(pagesOfSample...)
	r.wantEachOnce("local", len(pagesOfSample))
}

func TestDocker(t *testing.T) {
	host := testenv.Docker(t)
	r := newRun(t)
	r.asTester()
	r.useEngine(host)
	r.start("-backend", "docker")
	r.wait(0)
	r.wantSite(pagesOfSample...)
	r.wantEachOnce("docker", len(pagesOfSample))
	r.wantNoContainers(host)
}

// TestKill holds the program to what it shows: the worker that held the run is
// dead, the other one went on, and nothing that was finished ran again.
func TestKill(t *testing.T) {
	testenv.Require(t, testenv.PartPostgres)
	r := newRun(t)
	r.start("-kill")
	r.wait(0)
	r.wantSite(pagesOfSample...)

	victim := r.match(`(worker-[12]) was killed with SIGKILL`)
	finished := strings.Split(r.match(`Finished before: (.*)\.\n`), ", ")
	r.match(`(another worker took the run over)`)
	if len(finished) < 2 { // plan and a page
		t.Errorf("finished before the kill: %q", finished)
	}
	ends := map[string]int{}
	lost, others := 0, 0
	for _, row := range r.timeline() {
		worker, _, _ := strings.Cut(row.ranOn, ",")
		before := slices.Contains(finished, row.step)
		if row.took == "lost with its worker" {
			lost++
			if worker != victim || before || row.attempt != 1 {
				t.Errorf("lost, but not with the victim's first attempts: %+v", row)
			}
			continue
		}
		ends[row.step]++
		switch {
		case before && (worker != victim || row.attempt != 1):
			t.Errorf("finished before the kill, and ran again: %+v", row)
		case !before && worker == victim:
			t.Errorf("not finished before the kill, and yet by the victim: %+v", row)
		case !before:
			others++
		}
	}
	if lost == 0 || others == 0 {
		t.Errorf("%d attempts were lost, the other worker finished %d steps: there was no take-over", lost, others)
	}
	for _, step := range stepNames(len(pagesOfSample)) {
		if ends[step] != 1 {
			t.Errorf("%s was finished %d times", step, ends[step])
		}
	}
	r.wantPublished()
}

// TestInterrupt presses Ctrl-C in the middle. That nothing stays behind is what
// wait finds out.
func TestInterrupt(t *testing.T) {
	testenv.Require(t, testenv.PartPostgres)
	var long strings.Builder // so that the middle cannot be missed
	long.WriteString("# Long\n")
	for i := range 300 {
		fmt.Fprintf(&long, "\n## Page %d\n", i)
	}
	for _, test := range []struct {
		name  string
		args  []string
		after string
	}{
		{"in one process", nil, "✓ render["},
		{"in processes", []string{"-kill"}, "✓ plan"},
		{"while one is dead", []string{"-kill"}, "Finished before"},
		{"in containers", []string{"-backend", "docker"}, "✓ render["},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRun(t)
			host := ""
			if slices.Contains(test.args, "docker") {
				host = testenv.Docker(t)
				r.asTester()
				r.useEngine(host)
			}
			r.start(append(test.args, r.file("long.md", long.String()))...)
			r.await(test.after)
			r.interrupt()
			r.wait(130)
			if got := r.stderr.text(); got != "quickstart: interrupted\n" {
				t.Errorf("stderr: %q", got)
			}
			r.wantSite()
			if host != "" {
				r.wantNoContainers(host)
			}
		})
	}
}

func TestBadArguments(t *testing.T) {
	args := func(a ...string) func(*run) []string { return func(*run) []string { return a } }
	file := func(name, text string) func(*run) []string {
		return func(r *run) []string { return []string{r.file(name, text)} }
	}
	for _, test := range []struct {
		name   string
		args   func(*run) []string
		status int
		want   string
	}{
		{"missing file", args("nowhere.md"), 1, "open nowhere.md: no such file or directory"},
		{"folder", args("/"), 1, "is a directory"},
		{"empty", file("empty.md", " \n\t\n"), 1, "empty.md is empty"},
		{"binary", file("a.md", "\x7fELF\x02\xff\xfe"), 1, "a.md is no Markdown"},
		{"zero bytes", file("a.md", "# a\x00b\n"), 1, "a.md is no Markdown"},
		{"folder below a file", func(r *run) []string {
			return []string{"-out", filepath.Join(r.file("file", ""), "site")}
		}, 1, "-out: mkdir"},
		{"closed folder", func(r *run) []string { return []string{"-out", r.closedFolder()} }, 1, "permission denied"},
		{"somebody's folder", func(r *run) []string {
			return []string{"-out", filepath.Dir(r.file("precious", ""))}
		}, 1, "was not made by this program"},
		{"two briefs", args("a.md", "b.md"), 2, "want one brief, got 2"},
		{"flag after the brief", args("a.md", "-kill"), 2, "flags come first"},
		{"unknown flag", args("-fast"), 2, "Usage: quickstart"},
		{"unknown backend", args("-backend", "chroot"), 2, "want local or docker"},
		{"image without docker", args("-backend", "local", "-image", "busybox"), 2, "needs -backend docker"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRun(t)
			r.start(test.args(r)...)
			r.wait(test.status)
			if got := r.stderr.text(); !strings.Contains(got, test.want) {
				t.Errorf("stderr %q does not say %q", got, test.want)
			}
			if got := r.stdout.text(); got != "" {
				t.Errorf("stdout: %s", got)
			}
		})
	}
}

// TestBrokenLink shows that a brief that is wrong writes nothing.
func TestBrokenLink(t *testing.T) {
	testenv.Require(t, testenv.PartPostgres)
	r := newRun(t)
	r.start(r.file("broken.md", "# Broken\n\nSee [this](nowhere.html).\n"))
	r.wait(1)
	r.wantSite()
	if got, want := r.stderr.text(), `index.html: "nowhere.html": there is no page nowhere.html`; !strings.Contains(got, want) {
		t.Errorf("stderr %q does not say %q", got, want)
	}
}

// TestNoUserNamespaces takes away what local needs. Then the program takes
// docker, aloud; where that is not there either, it says what can be done.
func TestNoUserNamespaces(t *testing.T) {
	without := []string{testenv.Bubblewrap(t), "--dev-bind", "/", "/", "--unshare-user", "--disable-userns"}
	t.Run("and no Docker", func(t *testing.T) {
		r := newRun(t)
		r.prefix = without
		r.useEngine("unix:///nowhere/docker.sock")
		r.start()
		r.wait(1)
		for _, want := range []string{
			"no sandbox can be made here", "backend local is not available", "user.max_*_namespaces",
			"backend docker is not available", "/nowhere/docker.sock", "ways out",
		} {
			if !strings.Contains(r.stderr.text(), want) {
				t.Errorf("stderr does not say %q:\n%s", want, r.stderr.text())
			}
		}
		r.wantSite()
	})
	t.Run("but Docker", func(t *testing.T) {
		testenv.Require(t, testenv.PartPostgres)
		r := newRun(t)
		r.prefix = without
		r.asTester()
		r.useEngine(testenv.Docker(t))
		r.start()
		r.wait(0)
		r.wantSite(pagesOfSample...)
		r.wantEachOnce("docker", len(pagesOfSample))
		r.match(`(sandboxes   docker: container)`)
		r.match(`(because of sandbox: backend local is not available)`)
	})
}
