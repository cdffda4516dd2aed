package main

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// pagesOfSample are the pages of brief.md, in its order.
var pagesOfSample = []string{
	"index.html", "services.html", "how-a-repair-goes.html", "recent-work.html",
	"classes.html", "glossary.html", "visiting.html", "about.html",
}

var href = regexp.MustCompile(`href="([^"]*)"`)

// wantSite checks that the folder has these pages and nothing else, and that
// each link of a page leads to one that is there.
func (r *run) wantSite(want ...string) {
	r.t.Helper()
	found, err := filepath.Glob(filepath.Join(r.out, "[^.]*")) // the program's own list is hidden
	if err != nil {
		r.t.Fatal(err)
	}
	pages := map[string]string{}
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			r.t.Fatal(err)
		}
		pages[filepath.Base(path)] = string(text)
		if !slices.Contains(want, filepath.Base(path)) {
			r.t.Errorf("unexpected %s", path)
		}
	}
	for _, name := range want {
		links := href.FindAllStringSubmatch(pages[name], -1)
		if len(links) == 0 { // there is at least one, to the index
			r.t.Errorf("%s is missing, or has no links", name)
		}
		for _, link := range links {
			to, err := url.Parse(link[1])
			if err != nil {
				r.t.Errorf("%s: %v", name, err)
				continue
			}
			if to.IsAbs() {
				continue
			}
			page, ok := pages[name], true
			if to.Path != "" {
				page, ok = pages[to.Path]
			}
			if !ok || to.Fragment != "" && !strings.Contains(page, `id="`+to.Fragment+`"`) {
				r.t.Errorf("%s: %s leads nowhere", name, link[1])
			}
		}
	}
}

// wantInPage checks that a page contains a text.
func (r *run) wantInPage(name, want string) {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.out, name))
	if err != nil || !strings.Contains(string(text), want) {
		r.t.Errorf("%s: %v: no %s in\n%s", name, err, want, text)
	}
}

// A row is a line of the timeline.
type row struct {
	step, mode, ranOn string
	attempt           int
	began             float64
	took              string
}

var gap = regexp.MustCompile(`  +`)

// timeline reads the table at the end of the output.
func (r *run) timeline() []row {
	r.t.Helper()
	_, table, found := strings.Cut(r.stdout.text(), "\nSTEP ")
	if !found {
		r.t.Fatal("no timeline")
	}
	table, _, _ = strings.Cut(table, "\ncompleted after ")
	lines := strings.Split(table, "\n")
	if got, want := gap.Split(lines[0], -1)[1:], []string{"MODE", "RAN ON", "ATTEMPT", "BEGAN", "TOOK"}; !slices.Equal(got, want) {
		r.t.Fatalf("columns %q, want %q", got, want)
	}
	var rows []row
	for _, line := range lines[1:] {
		cells := gap.Split(line, -1)
		if len(cells) != 6 || cells[5] == "" {
			r.t.Fatalf("row %q", line)
		}
		attempt, err := strconv.Atoi(cells[3])
		if err != nil {
			r.t.Fatalf("row %q: %v", line, err)
		}
		began, err := strconv.ParseFloat(strings.Trim(cells[4], "+s"), 64)
		if err != nil {
			r.t.Fatalf("row %q: %v", line, err)
		}
		rows = append(rows, row{cells[0], cells[1], cells[2], attempt, began, cells[5]})
	}
	for i := 1; i < len(rows); i++ {
		if rows[i].began < rows[i-1].began {
			r.t.Errorf("%s stands after %s, which began later", rows[i].step, rows[i-1].step)
		}
	}
	return rows
}

// stepNames are the steps that make a number of pages.
func stepNames(pages int) []string {
	names := []string{"plan", "check", "pack", "publish"}
	for i := range pages {
		names = append(names, fmt.Sprintf("render[%d]", i))
	}
	return names
}

// wantEachOnce checks that the timeline of a run that nothing disturbed has
// each step once, in its first attempt, and where it belongs.
func (r *run) wantEachOnce(backend string, pages int) {
	r.t.Helper()
	left := stepNames(pages)
	for _, row := range r.timeline() {
		i := slices.Index(left, row.step)
		if i < 0 {
			r.t.Errorf("unknown or twice: %+v", row)
			continue
		}
		left = slices.Delete(left, i, i+1)
		mode, ranOn := "sandboxed", "worker-1, "+backend
		switch row.step {
		case "plan", "pack":
			mode, ranOn = "bare", "worker-1"
		case "publish":
			mode = "identity"
		}
		if row.mode != mode || row.ranOn != ranOn || row.attempt != 1 {
			r.t.Errorf("%+v, want %s on %s, in one attempt", row, mode, ranOn)
		}
	}
	if len(left) > 0 {
		r.t.Errorf("not in the timeline: %q", left)
	}
	r.wantPublished()
}

// wantPublished checks that the program got a receipt that the customer's key has signed, which it
// says only if it has verified it, and that what the step told of the key stayed in the sandbox.
func (r *run) wantPublished() {
	r.t.Helper()
	r.match(`published as ([0-9a-f]{12}), which the customer's key has signed. The deploy said: "signed with \[REDACTED:DEPLOY_KEY\]"`)
	if key := regexp.MustCompile(`[0-9a-f]{64}`).FindString(r.stdout.text() + r.stderr.text()); key != "" {
		r.t.Errorf("the output has what may be a key: %s", key)
	}
}

// match returns what the group of a pattern matches in the output.
func (r *run) match(pattern string) string {
	r.t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(r.stdout.text())
	if m == nil {
		r.t.Fatalf("no %s in the output", pattern)
	}
	return m[1]
}
