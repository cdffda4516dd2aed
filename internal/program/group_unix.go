//go:build unix

package program

import (
	"os/exec"
	"syscall"
)

// asGroup has the end of a command's context end what the command has started, too: compilers.
func asGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
