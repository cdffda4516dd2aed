//go:build unix

package devdb

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// guardianScript is started with the cluster's folder. fd 3 is the end of the
// named pipe that is read, fd 4 is what keeps the runner, fd 5 tells of its end.
const guardianScript = `
dir=$1
(
	while read -r name; do : >"$dir/ack/$name"; done <&3
	exec 4>&-
	cat <&5
	rm -rf "$dir"
	rmdir "${dir%/*}" 2>/dev/null
) </dev/null &
`

// ends are the runner's ends of its pipes with the guardian.
type ends struct {
	life *os.File // it ends with the guardian's wish, or with the guardian
	gone *os.File // the guardian waits for its end
}

func (e ends) close() {
	_ = e.life.Close()
	_ = e.gone.Close()
}

// guard starts the guardian, and takes the first hold.
func (c cluster) guard() (release func(), theirs ends, err error) {
	var ours closers
	defer func() {
		ours.close()
		if err != nil {
			_ = theirs.life.Close() // fine if nil
			_ = theirs.gone.Close()
		}
	}()
	var lifeW, goneR *os.File
	if theirs.life, lifeW, err = os.Pipe(); err != nil {
		return nil, theirs, err
	}
	ours = append(ours, lifeW)
	if goneR, theirs.gone, err = os.Pipe(); err != nil {
		return nil, theirs, err
	}
	ours = append(ours, goneR)
	hold := filepath.Join(c.dir, "hold")
	if err := unix.Mkfifo(hold, 0o600); err != nil {
		return nil, theirs, err
	}
	holdR, err := os.OpenFile(hold, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, theirs, err
	}
	ours = append(ours, holdR)
	if err := unix.SetNonblock(int(holdR.Fd()), false); err != nil { // it was for the open; a shell's read must wait
		return nil, theirs, err
	}
	// The write end must be open before the guardian reads, or it would meet
	// end of file at once.
	fd, err := unix.Open(hold, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, theirs, err
	}
	guardian := exec.Command("/bin/sh", "-c", guardianScript, "stepward-devdb", c.dir)
	guardian.Dir, guardian.Env = "/", serverEnv()
	guardian.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	guardian.ExtraFiles = []*os.File{holdR, lifeW, goneR}
	if err := guardian.Run(); err != nil {
		_ = unix.Close(fd)
		return nil, theirs, fmt.Errorf("start the guardian: %w", err)
	}
	return func() { _ = unix.Close(fd) }, theirs, nil
}

// closers are files that this process needs only until its child has them.
type closers []*os.File

func (c closers) close() {
	for _, f := range c {
		_ = f.Close()
	}
}
