package local

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// os/exec moves a pipe of its own to the number after the largest one that it
// knows of: the program is executed also when that is the program's.
func TestProgramKeepsItsNumber(t *testing.T) {
	executable, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer executable.Close()
	control, inside, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	defer inside.Close()
	const number = 100 // with free ones below, for the pipe
	at := func(f *os.File, number int) *os.File {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, number)
		if err != nil || fd != number {
			t.Fatalf("descriptor %d: %d, %v", number, fd, err)
		}
		dup := os.NewFile(uintptr(fd), f.Name())
		t.Cleanup(func() { dup.Close() })
		return dup
	}
	cmd := command(at(executable, number+1), at(inside, number), 0)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// A start costs the worker nothing for the memory that it has: had the kernel copied its
// tables, each page would be a fault when it is written to again.
func TestStartCopiesNoMemory(t *testing.T) {
	const pages = 1 << 14
	memory, err := unix.Mmap(-1, 0, pages*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	if err := unix.Madvise(memory, unix.MADV_NOHUGEPAGE); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // whose faults are counted
	defer runtime.UnlockOSThread()
	faults := func() int64 {
		var before, after unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &before); err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(memory); at += os.Getpagesize() {
			memory[at]++
		}
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &after); err != nil {
			t.Fatal(err)
		}
		return int64(after.Minflt - before.Minflt) //nolint:unconvert // not everywhere
	}
	if n := faults(); n < pages {
		t.Fatalf("%d faults in %d new pages: they are not seen", n, pages)
	}
	control, inside, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	defer inside.Close()
	p, err := startProcess(t.Context(), "", inside, nil, pickIDs(0), 0)
	if err != nil {
		t.Fatal(err)
	}
	n := faults()
	p.kill()
	p.wait()
	if n > pages/10 {
		t.Errorf("%d faults in %d pages after a start", n, pages)
	}
}
