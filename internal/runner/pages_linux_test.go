package runner

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"unsafe"
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
