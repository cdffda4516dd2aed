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
	r, w, err := os.Pipe()
	if err != nil {
		return false
	}
	defer r.Close()
	done := make(chan struct{})
	x.starts <- func() {
		defer close(done)
		_, err = syscall.ForkExec(confine.Self, []string{"stepward-spy"}, &syscall.ProcAttr{
			Env: []string{EnvMode + "=" + modeSpy}, Files: []uintptr{w.Fd(), w.Fd(), w.Fd(), w.Fd()},
		})
	}
	<-done
	w.Close()
	if err != nil {
		return false
	}
	said := make([]byte, 8)
	n, _ := r.Read(said)
	return string(said[:n]) == "closed"
}
