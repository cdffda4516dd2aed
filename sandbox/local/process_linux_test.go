package local

import (
	"os"
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
