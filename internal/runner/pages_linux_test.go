package runner

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A large constant is a part of the program that nothing else reads.
const (
	line     = "this is read by one test, and by nothing else: 64 characters ..\n"
	lines    = line + line + line + line + line + line + line + line
	block    = lines + lines + lines + lines + lines + lines + lines + lines
	blocks   = block + block + block + block + block + block + block + block
	more     = blocks + blocks + blocks + blocks + blocks + blocks + blocks + blocks
	most     = more + more + more + more + more + more + more + more
	constant = most + most + most + most // 8 MiB: the kernel may map 2 at once
)

// What a process has read of its program is taken from it, and there again when it is needed.
func TestDropPages(t *testing.T) {
	text := constant
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer pagemap.Close()
	present := func() (n int) {
		page := uintptr(os.Getpagesize())
		at := uintptr(unsafe.Pointer(unsafe.StringData(text))) + uintptr(len(text))/3 // neighbours come along with what is read
		for end := at + uintptr(len(text))/3; at < end; at += page {
			var entry [8]byte
			if _, err := pagemap.ReadAt(entry[:], int64(at/page*8)); err != nil {
				t.Fatal(err)
			}
			n += int(binary.NativeEndian.Uint64(entry[:]) >> 63)
		}
		return n
	}
	whole := func() bool { return strings.Count(text, line) == len(text)/len(line) }
	if !whole() || present() == 0 {
		t.Fatal("it has not read its program")
	}
	dropPages()
	if n := present(); n != 0 {
		t.Errorf("%d pages are there that it has no need of", n)
	}
	if !whole() || present() == 0 {
		t.Error("what it reads is not what it was")
	}
}

// A heap of many pages becomes one of few large ones, where the kernel makes any when it is asked. Then pages are there
// that nobody has used.
func TestJoinPages(t *testing.T) {
	const large, small = 2 << 20, 4 << 10
	heap := make([]byte, 3*large)
	heap = heap[-uintptr(unsafe.Pointer(unsafe.SliceData(heap)))%large:][:large]
	if err := unix.Madvise(heap, unix.MADV_DONTNEED); err != nil { // they may have been others'
		t.Fatal(err)
	}
	for i := 0; i < large; i += 2 * small {
		heap[i] = 1
	}
	joined := func() bool {
		var there [large / small]byte
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&heap[0])), large, uintptr(unsafe.Pointer(&there))); errno != 0 {
			t.Fatal(errno)
		}
		return bytes.Count(there[:], []byte{1}) == len(there)
	}
	if joined() {
		t.Fatal("all pages are there before")
	}
	joinPages(unsafe.Pointer(&heap[0]))
	if !joined() && unix.Madvise(heap, unix.MADV_COLLAPSE) == nil {
		t.Error("the pages of the heap are as small as they were")
	}
	for i := 0; i < large; i += 2 * small {
		if heap[i] != 1 {
			t.Fatalf("byte %d is %d", i, heap[i])
		}
	}
}

// What was written to is not taken: the file does not have it.
func TestOnlyRead(t *testing.T) {
	var smaps strings.Builder
	for _, m := range []struct {
		at, rights, path string
		anonymous, swap  int
	}{
		{"1000-2000", "r-xp", "/app/program", 0, 0},
		{"2000-3000", "r--p", "/app/program", 4, 0},
		{"3000-4000", "r--p", "/app/program", 0, 4},
		{"4000-5000", "rw-p", "/app/program", 0, 0},
		{"5000-6000", "r--p", "/lib/other", 0, 0},
		{"6000-7000", "r--p", "/app/program", 0, 0},
		{"7000-8000", "r--p", "", 0, 0},
	} {
		fmt.Fprintf(&smaps, "%s %s 00000000 fe:00 17  %s\nSize: 4 kB\nRss: 4 kB\nAnonymous: %d kB\nSwap: %d kB\nSwapPss: 0 kB\nVmFlags: rd mr\n",
			m.at, m.rights, m.path, m.anonymous, m.swap)
	}
	var got []uintptr
	for begin, end := range onlyRead(strings.NewReader(smaps.String()), "/app/program") {
		got = append(got, begin, end)
	}
	if want := []uintptr{0x1000, 0x2000, 0x6000, 0x7000}; !slices.Equal(got, want) {
		t.Errorf("%#x, want %#x", got, want)
	}
}
