// Identitycases writes docs/identity-cases.md: each way to get at a secret that the project
// set out to hold against, and the tests that do, or why there are none.
//
//	make cases
package main

import (
	"fmt"
	"strings"
)

func main() { fmt.Print(table(Cases)) }

const preface = `# What keeps secrets

*Written by ` + "`make cases`" + ` from internal/identitycases. Do not edit.*

Each line is one way to get at a tenant's secret, or for what keeps it to fail. **held**: by the tests of the last column, which continuous
integration runs, and which have to exist. **in part**: a note says what is left. **not covered**: a note says why. Tests of
` + "`sandbox/sandboxtest`" + ` are named as the local backend runs them; those of other backends run them as well.
`

// state says what becomes of a case.
func (c Case) state() string {
	switch {
	case len(c.Tests) == 0:
		return "not covered"
	case c.Except != "":
		return "in part"
	}
	return "held"
}

// table is the page, in Markdown.
func table(groups []Group) string {
	var b, notes strings.Builder
	b.WriteString(preface)
	counts, numbers := make(map[string]int), make(map[string]int)
	for _, g := range groups {
		fmt.Fprintf(&b, "\n## %s\n\n| # | case | | tests |\n|---|---|---|---|\n", g.Name)
		for _, c := range g.Cases {
			state := c.state()
			counts[state]++
			if why := c.Except; why != "" {
				if numbers[why] == 0 {
					numbers[why] = len(numbers) + 1
					fmt.Fprintf(&notes, "%d. %s\n", numbers[why], why)
				}
				state = fmt.Sprintf("%s (%d)", state, numbers[why])
			}
			var tests []string
			for _, t := range c.Tests {
				tests = append(tests, "`"+t+"`")
			}
			fmt.Fprintf(&b, "| %d | %s | %s | %s |\n", c.ID, c.Name, state, strings.Join(tests, ", "))
		}
	}
	fmt.Fprintf(&b, "\n## Notes\n\n%s", notes.String())
	fmt.Fprintf(&b, "\n%d are held, %d in part, %d are not covered.\n", counts["held"], counts["in part"], counts["not covered"])
	return b.String()
}
