package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// backends are the columns of the table.
var backends = []string{"local", "docker", "gvisor", "podman", "kubernetes", "lambda"}

// variants are the docker backend with another runtime, or another engine. Its tests
// have these names then.
var variants = map[string]string{"gvisor": "TestGVisor", "podman": "TestPodman"}

const tableFile = "docs/sandboxes.md"

func columnFile(root, backend string) string {
	return filepath.Join(root, "docs", "sandboxes", backend+".txt")
}

// What becomes of a case.
const (
	held          = "held"
	refused       = "refused"        // what would be needed to hold it can be demanded, and is refused
	notApplicable = "not applicable" // there is nothing to hold
	notCovered    = "not covered"    // no test holds it
)

// all are the cases, in their order.
func all() (out []sandboxtest.Case) {
	for _, g := range sandboxtest.Cases {
		out = append(out, g.Cases...)
	}
	return out
}

// known is what becomes of a case that is known without a run, or "".
func known(c sandboxtest.Case, backend string) string {
	for _, key := range []string{"", backend} {
		if why, ok := c.NotApplicable[key]; ok {
			return notApplicable + ": " + why
		}
	}
	if why, ok := c.NotCovered[backend]; ok {
		return notCovered + ": " + why
	}
	if len(testsOf(c, backend)) == 0 {
		return notCovered
	}
	return ""
}

// A column is what became of each case on a backend.
type column map[int]string

// String is the column's file: a line for each case.
func (c column) String() string {
	var b strings.Builder
	for _, k := range all() {
		if result, ok := c[k.ID]; ok {
			fmt.Fprintf(&b, "%d %s\n", k.ID, result)
		}
	}
	return b.String()
}

func parse(file string) (column, error) {
	c := column{}
	for line := range strings.Lines(file) {
		id, result, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		n, err := strconv.Atoi(id)
		if !ok || err != nil {
			return nil, fmt.Errorf("a line that is none: %q", line)
		}
		c[n] = result
	}
	return c, nil
}

// columns reads the columns that there are.
func columns(root string) (map[string]column, error) {
	out := map[string]column{}
	for _, name := range backends {
		raw, err := os.ReadFile(columnFile(root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		if out[name], err = parse(string(raw)); err != nil {
			return nil, fmt.Errorf("%s: %w", columnFile(root, name), err)
		}
	}
	return out, nil
}

const preface = `# What sandboxes hold

*Written by ` + "`make matrix`" + `, from the tests that it ran. Do not edit.*

Each line is one way for a sandbox, or for what comes out of one, to do harm. **held**: the tests of the last column passed on this backend.
**refused**: the host could not hold it, and a Spec that demands it was refused. **not applicable**, **not covered**: notes below. **not run**: by
` + "`make matrix`" + ` on this backend; continuous integration runs the same tests.

**lambda** is the program of the function in an emulation of AWS's APIs and of an execution environment: what AWS's own machine does has no line here.
It runs the tests in brackets instead of those without a package.
`

// table is the table of all columns, in Markdown.
func table(all map[string]column) string {
	var b, notes strings.Builder
	b.WriteString(preface)
	noted := map[string]int{}
	note := func(text string) string {
		n, ok := noted[text]
		if !ok {
			n = len(noted) + 1
			noted[text] = n
			fmt.Fprintf(&notes, "%d. %s\n", n, text)
		}
		return fmt.Sprintf(" (%d)", n)
	}
	for _, g := range sandboxtest.Cases {
		fmt.Fprintf(&b, "\n## %s\n\n| # | case | %s | tests |\n|---|---|%s---|\n", g.Name, strings.Join(backends, " | "), strings.Repeat("---|", len(backends)))
		for _, c := range g.Cases {
			fmt.Fprintf(&b, "| %d | %s", c.ID, c.Name)
			for _, name := range backends {
				result := known(c, name)
				if got, ok := all[name]; result == "" && ok {
					result = got[c.ID]
				} else if result == "" {
					result = "not run"
				}
				word, why, _ := strings.Cut(result, ": ")
				b.WriteString(" | " + word)
				if why != "" {
					b.WriteString(note(why))
				} else if c.Except != "" && (word == held || word == notCovered) {
					b.WriteString(note("Not covered: " + c.Except))
				}
			}
			var names []string
			for _, t := range c.Tests {
				names = append(names, "`"+t+"`")
			}
			for _, name := range backends {
				for _, t := range c.Instead[name] {
					names = append(names, "(`"+strings.TrimPrefix(t, name+" ")+"`)")
				}
			}
			fmt.Fprintf(&b, " | %s |\n", strings.Join(names, ", "))
		}
	}
	return b.String() + "\n## Notes\n\n" + notes.String()
}
