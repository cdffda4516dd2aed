package runner

import (
	"bufio"
	"bytes"
	"io"
	"iter"
	"os"
	"strconv"
	"strings"
	"unsafe"

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
	for begin, end := range onlyRead(f, path) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, begin, end-begin, unix.MADV_DONTNEED)
	}
}

// onlyRead yields where a file is mapped to that was not written to there, and cannot be. What was written to, when
// its addresses were filled in, is anonymous, or swapped out: then the file does not have it.
func onlyRead(smaps io.Reader, path string) iter.Seq2[uintptr, uintptr] {
	return func(yield func(begin, end uintptr) bool) {
		var begin, end uint64 // 0: it is another mapping
		for lines := bufio.NewScanner(smaps); lines.Scan(); {
			line := lines.Text()
			w := strings.Fields(line)
			switch {
			case len(w) > 4 && strings.Contains(w[0], "-"):
				begin, end = 0, 0
				if from, to, _ := strings.Cut(w[0], "-"); w[1][1] == '-' && strings.HasSuffix(line, " "+path) {
					begin, _ = strconv.ParseUint(from, 16, 64)
					end, _ = strconv.ParseUint(to, 16, 64)
				}
			case len(w) < 2:
			case w[0] == "Anonymous:" && w[1] != "0":
				begin = 0
			case w[0] == "Swap:" && w[1] == "0" && begin != 0: // it comes after
				if !yield(uintptr(begin), uintptr(end)) {
					return
				}
			}
		}
	}
}

// joinPages has the kernel make large pages of those of the heap, where it can: at the end of the process one takes as
// much time as a small one does. It sees to the heap around a value: the runtime reserves 64 MiB of addresses at a time.
func joinPages(value unsafe.Pointer) {
	const reserved, large, small = 64 << 20, 2 << 20, 4 << 10
	const enough = large / small / 4 // that there are: the others cost memory
	if os.Getpagesize() != small {
		return
	}
	var there [large / small]byte
	at := uintptr(value) &^ (reserved - 1)
	for end := at + reserved; at < end; at += large {
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, at, large, uintptr(unsafe.Pointer(&there)))
		if errno == 0 && bytes.Count(there[:], []byte{1}) >= enough {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, at, large, unix.MADV_COLLAPSE)
		}
	}
}
