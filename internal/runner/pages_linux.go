package runner

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dropPages takes from this process the pages of its program that it has only read: they stay in the kernel's memory,
// and are there again when they are needed. What a process has takes time when it ends, a page as much as the other,
// and most that the start of a program reads it needs once.
//
// It leaves what it cannot tell, and pages that were written to.
func dropPages() {
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	var begin, end uint64 // of a mapping of the program's file that is not written to; 0: it is another one
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		w := strings.Fields(line)
		switch {
		case len(w) > 4 && strings.Contains(w[0], "-"):
			begin, end = 0, 0
			if from, to, _ := strings.Cut(w[0], "-"); w[1][1] == '-' && strings.HasSuffix(line, " "+path) {
				begin, _ = strconv.ParseUint(from, 16, 64)
				end, _ = strconv.ParseUint(to, 16, 64)
			}
		case begin != 0 && len(w) > 1 && w[0] == "Anonymous:" && w[1] == "0": // else it was, when its addresses were filled in
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_DONTNEED)
		}
	}
}
