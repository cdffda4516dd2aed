package main

import (
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/stepward/stepward/internal/bench/measure"
)

// A report is tables of a row per system. Each has the figures of all rounds,
// and shows their medians.
type report struct {
	systems []system
	lines   []string
	tables  []*table
	notes   []string
}

type table struct {
	title   string
	columns []string
	rows    map[string]map[string][]float64 // by system and column
}

func newReport(systems []system, command string) *report {
	r := &report{systems: systems, lines: []string{"Command: `" + command + "`"}}
	m := measure.Machine()
	for _, k := range []string{"Go", "OS", "Kernel", "CPU", "Cores", "Memory"} {
		if m[k] != "" {
			r.lines = append(r.lines, k+": "+m[k])
		}
	}
	info, _ := debug.ReadBuildInfo()
	var versions []string
	for _, dep := range info.Deps {
		if slices.ContainsFunc(systems, func(s system) bool { return s.module == dep.Path }) && dep.Replace == nil {
			versions = append(versions, dep.Path+" "+dep.Version)
		}
	}
	r.lines = append(r.lines, "Versions: "+strings.Join(versions, ", "))
	return r
}

// source says which server it was.
func (r *report) source(c *measure.Cluster) {
	line := "Postgres: " + c.Source
	for _, k := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		line += ", " + k + "=" + c.Settings[k]
	}
	r.lines = append(r.lines, line)
}

func (r *report) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

func (r *report) add(title string, s system, column string, v float64) {
	i := slices.IndexFunc(r.tables, func(t *table) bool { return t.title == title })
	if i < 0 {
		i = len(r.tables)
		r.tables = append(r.tables, &table{title: title, rows: make(map[string]map[string][]float64)})
	}
	t := r.tables[i]
	if !slices.Contains(t.columns, column) {
		t.columns = append(t.columns, column)
	}
	if t.rows[s.name] == nil {
		t.rows[s.name] = make(map[string][]float64)
	}
	t.rows[s.name][column] = append(t.rows[s.name][column], v)
}

func (r *report) timing(l load, s system, t timing) {
	title := strings.ToUpper(l.name[:1]) + l.name[1:]
	r.add(title, s, "runs/s", t.rate)
	if t.p50 > 0 {
		r.add(title, s, "p50, ms", t.p50)
		r.add(title, s, "p99, ms", t.p99)
	}
}

func (r *report) parking(s system, x parking) {
	title := "Runs that wait for a signal"
	r.add(title, s, "bytes of memory per run", x.bytes)
	r.add(title, s, "goroutines per run", x.goroutines)
	r.add(title, s, "signalled to result, runs/s", x.woken)
}

func (r *report) bill(k bulk, s system, fullPages string, run, idle bill) {
	title := fmt.Sprintf("Cost per run, %d steps, %d callers", k.steps, k.callers)
	if fullPages == "off" {
		r.add(title, s, "statements", run.statements)
		r.add(title, s, "commits", run.commits)
		r.add(title, s, "commits that wrote", run.writes)
		r.add("An idle worker, per second", s, "statements", idle.statements)
		r.add("An idle worker, per second", s, "commits that wrote", idle.writes)
		r.add("An idle worker, per second", s, "WAL, B", idle.bytes)
	}
	r.add(title, s, "WAL, B, full pages "+fullPages, run.bytes)
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

// ratio is the median of the ratios of the same round.
func ratio(of, to []float64) float64 {
	var all []float64
	for i := range min(len(of), len(to)) {
		if to[i] != 0 {
			all = append(all, of[i]/to[i])
		}
	}
	if len(all) == 0 {
		return 0
	}
	return median(all)
}

// write prints medians, each but the first system's with its ratio to that.
func (r *report) write(w io.Writer) error {
	var b strings.Builder
	for _, l := range r.lines {
		fmt.Fprintf(&b, "- %s\n", l)
	}
	for _, t := range r.tables {
		fmt.Fprintf(&b, "\n%s:\n\n| | %s |\n|---%s|\n", t.title, strings.Join(t.columns, " | "), strings.Repeat("|---:", len(t.columns)))
		first := t.rows[r.systems[0].name]
		for i, s := range r.systems {
			if t.rows[s.name] == nil {
				continue
			}
			fmt.Fprintf(&b, "| %s", s.name)
			for _, c := range t.columns {
				switch of := t.rows[s.name][c]; {
				case of == nil:
					b.WriteString(" | ")
				case i == 0 || first == nil || ratio(of, first[c]) == 0:
					fmt.Fprintf(&b, " | %s", measure.Number(median(of)))
				default:
					fmt.Fprintf(&b, " | %s (×%s)", measure.Number(median(of)), measure.Number(ratio(of, first[c])))
				}
			}
			b.WriteString(" |\n")
		}
	}
	for _, n := range r.notes {
		fmt.Fprintf(&b, "\n- %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
