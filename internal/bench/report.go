package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
)

// report is what a call of bench found out.
type report struct {
	Command  string
	Machine  map[string]string
	Postgres string            `json:",omitempty"`
	Settings map[string]string `json:",omitempty"` // of Postgres
	Results  []result
	Tables   []table `json:",omitempty"`
	Notes    []string

	suite string
}

// result is one figure. A Bar of zero is none.
type result struct {
	Suite, Name string
	Value       float64
	Unit        string
	Bar         float64 `json:",omitempty"` // the highest value that is good enough
	Missed      bool    `json:",omitempty"`
}

// table is what is no list of figures.
type table struct {
	Suite, Title string
	Columns      []string
	Rows         [][]string
}

func (r *report) add(name string, value float64, unit string) { r.bar(name, value, unit, 0) }

func (r *report) bar(name string, value float64, unit string, bar float64) {
	x := result{Suite: r.suite, Name: name, Value: value, Unit: unit, Bar: bar, Missed: bar != 0 && value > bar}
	r.Results = append(r.Results, x)
	measure.Progress("%s: %s: %s %s", x.Suite, x.Name, measure.Number(x.Value), x.Unit)
}

func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, r.suite+": "+fmt.Sprintf(format, args...))
}

// durations adds quantiles of times, in milliseconds.
func (r *report) durations(name string, all []time.Duration, quantiles ...float64) {
	for _, q := range quantiles {
		what := fmt.Sprintf("p%g", 100*q)
		if q == 0 {
			what = "least"
		}
		r.add(name+", "+what, measure.Quantile(all, q), "ms")
	}
}

func (r *report) write(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "- Command: `%s`\n", r.Command)
	for _, k := range sortedKeys(r.Machine) {
		fmt.Fprintf(&b, "- %s: %s\n", k, r.Machine[k])
	}
	if r.Postgres != "" {
		var settings []string
		for _, k := range sortedKeys(r.Settings) {
			settings = append(settings, k+"="+r.Settings[k])
		}
		fmt.Fprintf(&b, "- Postgres: %s\n- Settings: %s\n", r.Postgres, strings.Join(settings, " "))
	}
	if len(r.Results) > 0 {
		b.WriteString("\n| | figure | | bar |\n|---|---:|---|---|\n")
	}
	for _, x := range r.Results {
		bar := ""
		if x.Bar != 0 {
			bar = "≤ " + strconv.FormatFloat(x.Bar, 'f', -1, 64) + " met"
			if x.Missed {
				bar = strings.TrimSuffix(bar, "met") + "**missed**"
			}
		}
		fmt.Fprintf(&b, "| %s: %s | %s | %s | %s |\n", x.Suite, x.Name, measure.Number(x.Value), x.Unit, bar)
	}
	for _, t := range r.Tables {
		fmt.Fprintf(&b, "\n%s: %s\n\n| %s |\n|---%s|\n", t.Suite, t.Title, strings.Join(t.Columns, " | "), strings.Repeat("|---:", len(t.Columns)-1))
		for _, row := range t.Rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		}
	}
	if len(r.Notes) > 0 {
		b.WriteString("\n")
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
