package canary_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/canary"
)

// look searches a source in a place. What is found of a secret fails the test.
func (m *mine) look(place, source string, r io.Reader) {
	m.t.Helper()
	if m.found[place] == nil {
		m.found[place] = make(map[string]bool)
	}
	err := m.search.Read(r, func(n canary.Needle, around []byte) {
		if m.found[place][n.Of] = true; strings.HasPrefix(n.Of, "marker ") {
			return
		}
		if what := fmt.Sprint(place, source, n.Of, n.Encoding); !m.passed[what] {
			m.passed[what] = true
			m.t.Errorf("%s: %s has %s as %s: %q", place, source, n.Of, n.Encoding, around)
		}
	})
	if err != nil {
		m.t.Errorf("%s: %s: %v", place, source, err)
	}
}

// memory looks at all that a process has in its memory, from outside, as a debugger does.
func (m *mine) memory(place string, pid int) {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	maps, err := os.ReadFile(filepath.Join(proc, "maps"))
	if err != nil {
		m.t.Fatal(err)
	}
	mem, err := os.Open(filepath.Join(proc, "mem"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer mem.Close()
	pages, err := os.Open(filepath.Join(proc, "pagemap"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer pages.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil {
			m.t.Fatalf("%q: %v", line, err)
		}
		if mode[0] != 'r' || strings.Contains(line, "[v") { // vvar and vsyscall are the kernel's
			continue
		}
		m.look(place, strings.TrimSpace(line), bufio.NewReaderSize(&resident{mem: mem, pages: pages, at: int64(from), to: int64(to)}, canary.Window))
	}
}

// resident reads those pages of a mapping that there are.
type resident struct {
	mem, pages *os.File
	at, to     int64
	entries    []byte // of pages from at on
}

const page = 4096

func (r *resident) Read(p []byte) (int, error) {
	for r.at < r.to {
		if len(r.entries) == 0 {
			r.entries = make([]byte, min((r.to-r.at)/page, 64<<10)*8)
			n, err := r.pages.ReadAt(r.entries, r.at/page*8)
			if err != nil && (err != io.EOF || n == 0) {
				return 0, err
			}
			r.entries = r.entries[:n/8*8]
		}
		n := int64(0)
		for n < int64(len(p))/page && int(n+1)*8 <= len(r.entries) && r.entries[n*8+7]&0xc0 != 0 { // present, or swapped
			n++
		}
		if n == 0 {
			r.entries = r.entries[8:]
			r.at += page
			continue
		}
		got, err := r.mem.ReadAt(p[:n*page], r.at)
		r.entries = r.entries[n*8:]
		r.at += n * page
		if got > 0 {
			return got, nil
		}
		if err != nil && !errors.Is(err, io.EOF) { // it may have been unmapped
			continue
		}
	}
	return 0, io.EOF
}

// processes looks at the environments and arguments of all processes outside of sandboxes.
func (m *mine) processes() {
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		m.t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, proc := range all {
		if theirs, err := os.Readlink(filepath.Join(proc, "ns/pid")); err != nil || theirs != ours {
			continue // it has ended, is another user's, or in a sandbox
		}
		for _, what := range []string{"environ", "cmdline"} {
			text, err := os.ReadFile(filepath.Join(proc, what))
			if err != nil {
				continue
			}
			m.look("processes", filepath.Join(proc, what), bytes.NewReader(text))
		}
	}
}

// broker returns the process of a worker's broker.
func (m *mine) broker(worker *exec.Cmd) *os.Process {
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", worker.Process.Pid))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, file := range children {
		list, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(list)) {
			text, err := os.ReadFile(filepath.Join("/proc", child, "environ"))
			if pid, aerr := strconv.Atoi(child); errors.Join(err, aerr) == nil && bytes.Contains(text, []byte(brokerlink.EnvBroker+"=")) {
				p, err := os.FindProcess(pid)
				if err != nil {
					m.t.Fatal(err)
				}
				return p
			}
		}
	}
	m.t.Fatal("the worker has no broker")
	return nil
}

// database looks at every row of every table, and at the audit events as an auditor gets them.
func (m *mine) database() {
	ctx := context.WithoutCancel(m.t.Context())
	if _, err := m.pool.Exec(ctx, "CHECKPOINT"); err != nil { // so that files have all
		m.t.Fatal(err)
	}
	rows, err := m.pool.Query(ctx, `SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`)
	if err != nil {
		m.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Schema, Name string }])
	if err != nil || len(tables) < 20 {
		m.t.Fatalf("%d tables, %v", len(tables), err)
	}
	conn, err := m.pool.Acquire(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Release()
	for _, table := range tables {
		var text bytes.Buffer
		name := pgx.Identifier{table.Schema, table.Name}.Sanitize()
		if _, err := conn.Conn().PgConn().CopyTo(ctx, &text, "COPY (SELECT * FROM "+name+") TO STDOUT"); err != nil {
			m.t.Fatalf("%s: %v", name, err)
		}
		m.look("rows", name, &text)
	}
	events, err := audit.Events(ctx, m.pool, audit.Filter{})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range events {
		raw, err := json.Marshal(e)
		if err != nil {
			m.t.Fatal(err)
		}
		m.look("audit", e.Kind, bytes.NewReader(append(raw, e.Detail...)))
	}
}

// files looks at those below a folder.
func (m *mine) files(place, dir string, which func(path string) bool) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !which(path) {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		m.look(place, strings.TrimPrefix(path, dir), f)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Errorf("%s: %v", place, err)
	}
}
