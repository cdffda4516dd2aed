package runner

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// A met counts how often the sandbox's processes met a limit, by the files of its
// cgroup. A file that is not there counts nothing.
type met struct{ memory, pids *os.File }

// findMet opens the files where a container has them.
func findMet() met {
	open := func(paths ...string) *os.File {
		for _, p := range paths {
			if f, err := os.Open(p); err == nil {
				return f
			}
		}
		return nil
	}
	return met{
		memory: open("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"),
		pids:   open("/sys/fs/cgroup/pids.events", "/sys/fs/cgroup/pids/pids.events"),
	}
}

// A count is what a met counted so far.
type count struct{ memory, pids int }

func (m met) count() count {
	return count{memory: value(m.memory, "oom_kill "), pids: value(m.pids, "max ")}
}

// value returns the number behind a name at the beginning of a line.
func value(f *os.File, name string) int {
	if f == nil {
		return 0
	}
	buf := make([]byte, 1<<10)
	n, _ := f.ReadAt(buf, 0)
	for line := range bytes.Lines(buf[:n]) {
		if v, ok := bytes.CutPrefix(line, []byte(name)); ok {
			n, _ := strconv.Atoi(string(bytes.TrimSpace(v)))
			return n
		}
	}
	return 0
}

// since names the limit that was met since then, "" if none was: by anything in
// the sandbox, which need not be the command that asks.
func (m met) since(c count) string {
	now := m.count()
	switch {
	case now.memory > c.memory:
		return "Memory"
	case now.pids > c.pids:
		return "PIDs"
	}
	for _, dir := range []string{Workspace, "/tmp"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.TMPFS_MAGIC && st.Blocks > 0 && (st.Bavail == 0 || st.Files > 0 && st.Ffree == 0) {
			return "Disk"
		}
	}
	return ""
}
