package sandboxtest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// search looks for a value, of which the argument is all but the first character, in
// whatever this process can read of others: their environments, arguments, open files and
// memory. It says where it was found.
func search(tail string) error {
	value := []byte("c" + tail) // which is not in this process's own arguments
	dir, _ := os.ReadDir("/proc")
	for _, d := range dir {
		pid := d.Name()
		if strings.Trim(pid, "0123456789") != "" || pid == inProc() {
			continue
		}
		for _, name := range []string{"environ", "cmdline"} {
			if raw, _ := os.ReadFile("/proc/" + pid + "/" + name); bytes.Contains(raw, value) {
				return nil
			}
		}
		fds, _ := os.ReadDir("/proc/" + pid + "/fd")
		for _, fd := range fds {
			if f, err := os.OpenFile("/proc/"+pid+"/fd/"+fd.Name(), os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
				st, err := f.Stat()
				if err == nil && st.Mode().IsRegular() {
					raw, _ := io.ReadAll(io.LimitReader(f, 1<<20))
					if bytes.Contains(raw, value) {
						f.Close()
						return nil
					}
				}
				f.Close()
			}
		}
		if inMemory(pid, value) {
			return nil
		}
	}
	return fmt.Errorf("no other process has it")
}

// inMemory looks in what a process can write of its memory.
func inMemory(pid string, value []byte) bool {
	maps, _ := os.ReadFile("/proc/" + pid + "/maps")
	mem, err := os.Open("/proc/" + pid + "/mem")
	if err != nil {
		return false
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var perm string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perm); n < 3 || !strings.HasPrefix(perm, "rw") || to-from > 64<<20 {
			continue
		}
		buf := make([]byte, to-from)
		n, _ := mem.ReadAt(buf, from)
		if bytes.Contains(buf[:n], value) {
			return true
		}
	}
	return false
}

// secretFile returns what is in a file, and how.
func secretFile(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	st, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	if os.WriteFile(path, []byte("x"), 0o600) == nil {
		return "it can be written"
	}
	return hashed(raw) + " " + st.Mode().String()
}
