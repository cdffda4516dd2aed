package runner

import (
	"errors"
	"os"
	"strconv"
	"syscall"

	"github.com/stepward/stepward/internal/confine"
)

// modeSpy is that of a process that tries what a command could do: to read the runner.
const modeSpy = "spy"

// errReadable refuses secrets to a runner that its commands could read them from.
var errReadable = errors.New("the kernel here lets commands read the memory of the tool runner, so it takes no secrets")

// spy says on descriptor 3 whether its parent can be read.
func spy() error {
	said := "closed"
	for _, name := range []string{"environ", "mem", "maps"} {
		f, err := os.Open("/proc/" + strconv.Itoa(os.Getppid()) + "/" + name)
		if err == nil {
			f.Close()
			said = "open"
		}
	}
	_, err := os.NewFile(3, "said").WriteString(said)
	return err
}

// closed reports whether a process that the runner starts cannot read it. Where
// commands have domains none can, whatever the kernel does besides.
func (x *execs) closed() bool {
	if x.landlock {
		return true
	}
	var said *os.File
	var err error
	done := make(chan struct{})
	x.starts <- func() {
		defer close(done)
		said, _, err = startSpy()
	}
	<-done
	return err == nil && heard(said)
}

// closedYet is closed before anything is served, when nobody else waits for processes.
func closedYet() bool {
	said, pid, err := startSpy()
	if err != nil {
		return false
	}
	closed := heard(said)
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			return closed
		}
	}
}

// startSpy starts a process that tries, and returns where it says what came of it.
func startSpy() (said *os.File, pid int, err error) {
	said, w, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	defer w.Close()
	pid, err = syscall.ForkExec(confine.Self, []string{"stepward-spy"}, &syscall.ProcAttr{
		Env: []string{EnvMode + "=" + modeSpy}, Files: []uintptr{w.Fd(), w.Fd(), w.Fd(), w.Fd()},
	})
	if err != nil {
		said.Close()
	}
	return said, pid, err
}

// heard reports whether a spy could not.
func heard(said *os.File) bool {
	defer said.Close()
	text := make([]byte, 8)
	n, _ := said.Read(text)
	return string(text[:n]) == "closed"
}
