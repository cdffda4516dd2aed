package runner

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/internal/nsroot"
)

func run(mode string, g Guest) error {
	if err := confine.Harden(); err != nil {
		return err
	}
	switch mode {
	case modeGuest:
		const in, out = 3, 4
		syscall.CloseOnExec(in)
		syscall.CloseOnExec(out)
		req := os.NewFile(in, "request")
		defer req.Close()
		if !waits(in) { // it is a spare, and has the time
			dropPages()
			rehearse()
			joinPages(unsafe.Pointer(os.Stdin))
		}
		return serveGuest(g, req, os.NewFile(out, "answer"))
	case modeSpy:
		return spy()
	case "serve":
		return serveSocket()
	case "install":
		return install()
	case nsroot.Mode:
		return serveLocal()
	}
	return fmt.Errorf("%s=%q is none of serve, install, local, dial, shim, guest", EnvMode, mode)
}

// waits reports whether there is something to read.
func waits(fd int32) bool {
	ready := []unix.PollFd{{Fd: fd, Events: unix.POLLIN}}
	n, _ := unix.Poll(ready, 0)
	return n > 0
}

// small keeps the heap of a part of ours, as opposed to a guest, low: it lives
// beside what the sandbox is for, and moves bytes. Not from the beginning: what the
// packages of a program keep would have a first collection fall into the start.
func small() {
	debug.SetMemoryLimit(32 << 20)
	time.AfterFunc(time.Second, func() { debug.SetGCPercent(50) })
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
}

// serveSocket serves on a socket, configured by the environment.
func serveSocket() error {
	small()
	off := layers.Parse(os.Getenv(EnvWithout))
	cfg := config{
		guest:    os.Getenv(EnvGuest),
		landlock: !off.Has(layers.Landlock) && confine.Landlock() > 0,
		seccomp:  !off.Has(layers.Seccomp),
	}
	hash, err := hex.DecodeString(os.Getenv(EnvTokenHash))
	if err != nil || len(hash) != len(cfg.tokenHash) {
		return fmt.Errorf("%s is not 32 bytes in hexadecimal", EnvTokenHash)
	}
	copy(cfg.tokenHash[:], hash)
	if cfg.orphanAfter, err = time.ParseDuration(os.Getenv(EnvOrphanAfter)); err != nil || cfg.orphanAfter <= 0 {
		return fmt.Errorf("%s is not a duration above zero", EnvOrphanAfter)
	}
	if err := limits(); err != nil {
		return err
	}
	if err := confine.GiveUp(off); err != nil {
		return err
	}
	cfg.redirect = !off.Has(layers.Redirect) && redirects() // not before: its thread would have another filter
	if address := os.Getenv(EnvClosed); address != "" {
		if !cfg.landlock { // which keeps commands of a pod from what its node has made
			if err := noVolumes(); err != nil {
				return err
			}
		}
		if err := awaitClosed(context.Background(), address); err != nil {
			return err
		}
	}
	witness, err := readWitness(func() bool { return cfg.landlock || closedYet() }) // while nothing can be asked to run here
	if err != nil {
		return err
	}
	ln, err := listen(os.Getenv(EnvSocket))
	if err != nil {
		return err
	}
	s := newServer(cfg)
	s.execs.secrets.witness = witness
	s.execs.met = findMet()
	return s.serve(ln, terminated(cfg.landlock))
}

// serveLocal serves what connections package local sends. The process has entered
// the sandbox already, before main.
func serveLocal() error {
	small()
	in := nsroot.Entered()
	cfg := config{
		tokenHash: [32]byte(in.Setup.TokenHash), orphanAfter: in.Setup.OrphanAfter,
		landlock: !in.Setup.Without.Has(layers.Landlock) && confine.Landlock() > 0,
		seccomp:  !in.Setup.Without.Has(layers.Seccomp),
		redirect: !in.Setup.Without.Has(layers.Redirect) && redirects(),
	}
	gone, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := newServer(cfg)
	s.execs.met = met{in.Memory, in.Processes}
	if in.Shim != nil {
		s.execs.release(in.Shim)
	}
	if err := in.Control.Ready(nsroot.Facts{Landlock: s.landlockABI(), Seccomp: cfg.seccomp, Redirect: cfg.redirect}); err != nil {
		return err
	}
	err := s.serve(handed{in.Control, cancel}, gone.Done())
	if errors.Is(err, net.ErrClosed) {
		return nil // the worker has gone, or destroyed the sandbox
	}
	return err
}

// handed is the listener whose connections are those that the worker sends.
type handed struct {
	*nsroot.Control
	gone func()
}

func (l handed) Accept() (net.Conn, error) {
	f, err := l.Control.Accept()
	if err != nil {
		l.gone()
		return nil, net.ErrClosed
	}
	defer f.Close()
	return net.FileConn(f)
}

func (handed) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
