package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// excerpt is how many lines of a test are shown at the end.
const excerpt = 40

// A failure is what failed, and what it said.
type failure struct {
	test
	said []string
}

// failures are all of them. What has nothing of its own to say, because a part of it
// failed, is none.
type failures []failure

func (all *failures) add(key test, held map[test][]string) {
	inner := func(f failure) bool {
		return f.pkg == key.pkg && (key.name == "" || strings.HasPrefix(f.name, key.name+"/"))
	}
	if said := split(held[key]); key.name != "" && reason(said) != "" || !slices.ContainsFunc(*all, inner) {
		*all = append(*all, failure{key, said})
	}
}

// print writes the end of each, the innermost of a package first.
func (all failures) print(out io.Writer) {
	slices.SortStableFunc(all, func(a, b failure) int { return a.compare(b.test) })
	for _, f := range all {
		fmt.Fprintf(out, "\n=== FAILED: %s\n", f)
		for _, line := range f.end() {
			fmt.Fprintln(out, line)
		}
	}
}

// end is the last lines, or the first from a panic or a data race on.
func (f failure) end() []string {
	first := slices.IndexFunc(f.said, func(line string) bool {
		return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "WARNING: DATA RACE")
	})
	if first >= 0 {
		return f.said[first:min(first+excerpt, len(f.said))]
	}
	return f.said[max(0, len(f.said)-excerpt):]
}

func (t test) String() string { return strings.TrimSuffix(t.pkg+"."+t.name, ".") }

// compare sorts by package, then the innermost subtests first.
func (t test) compare(u test) int {
	return cmp.Or(cmp.Compare(t.pkg, u.pkg), cmp.Compare(strings.Count(u.name, "/"), strings.Count(t.name, "/")), cmp.Compare(t.name, u.name))
}

// split returns output line by line, without what go test says of what runs.
func split(output []string) (lines []string) {
	for line := range strings.Lines(strings.Join(output, "")) {
		if !strings.HasPrefix(line, "=== ") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}
