package sandboxtest

import "golang.org/x/sys/unix"

// syscall32 makes a system call without arguments by the table of 32-bit programs.
func syscall32(number uintptr) int

// otherTables are calls of getpid by other numbers than this architecture's own.
var otherTables = map[string]func() error{
	"32-bit getpid": func() error {
		if n := syscall32(20); n < 0 {
			return unix.Errno(-n)
		}
		return nil
	},
	"x32 getpid": func() error { return attempt(unix.SYS_GETPID | 0x40000000) },
	"iopl":       func() error { return attempt(unix.SYS_IOPL, 99) },
	"ioperm":     func() error { return attempt(unix.SYS_IOPERM, 1<<20, 1, 1) },
	"sysfs":      func() error { return attempt(unix.SYS_SYSFS, 99) },
	"uselib":     func() error { return attempt(unix.SYS_USELIB, 1) },
	"ustat":      func() error { return attempt(unix.SYS_USTAT, 0, 1) },
}
