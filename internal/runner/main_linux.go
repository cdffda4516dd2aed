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
	"strings"
	"syscall"
	"time"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/internal/nsroot"
)

func run(mode string, g Guest) error {
	if err := harden(); err != nil {
		return err
	}
	switch mode {
	case "guest":
		const in, out = 3, 4
		syscall.CloseOnExec(in)
		syscall.CloseOnExec(out)
		req := os.NewFile(in, "request")
		defer req.Close()
		return serveGuest(g, req, os.NewFile(out, "answer"))
	case "shim":
		return shim()
	case "serve":
		return serveSocket()
	case "local":
		return serveLocal()
	}
	return fmt.Errorf("%s=%q is none of serve, local, dial, shim, guest", EnvMode, mode)
}

// small keeps the heap of a part of ours, as opposed to a guest, low: it lives
// beside what the sandbox is for, and moves bytes.
func small() {
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(32 << 20)
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
}

// serveSocket serves on a unix socket, configured by the environment.
func serveSocket() error {
	small()
	off := layers.Parse(os.Getenv(EnvWithout))
	cfg := config{
		guest:    os.Getenv(EnvGuest),
		landlock: !off.Has(layers.Landlock) && landlockABI() > 0,
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
	socket := os.Getenv(EnvSocket)
	if err := confine(cfg); err != nil {
		return err
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(socket, "@") {
		// The worker on the other side of a shared directory has another uid.
		// Who may reach it is up to the directory and the token.
		if err := os.Chmod(socket, 0o666); err != nil {
			return err
		}
	}
	return newServer(cfg).serve(ln, nil)
}

// serveLocal enters the namespaces that package local made and serves what
// connections it sends.
func serveLocal() error {
	small()
	ctl, err := nsroot.OpenControl()
	if err != nil {
		return err
	}
	setup, err := ctl.Receive()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // for serve to start processes from
	if err := nsroot.Enter(setup); err != nil {
		ctl.Fail(err)
		return err
	}
	cfg := config{
		tokenHash: [32]byte(setup.TokenHash), orphanAfter: setup.OrphanAfter,
		landlock: !setup.Without.Has(layers.Landlock) && landlockABI() > 0,
		seccomp:  !setup.Without.Has(layers.Seccomp),
	}
	if err := confine(cfg); err != nil {
		ctl.Fail(err)
		return err
	}
	if err := ctl.Admitted(); err != nil {
		return err
	}
	gone, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := newServer(cfg)
	if err := ctl.Ready(nsroot.Facts{Landlock: s.landlockABI(), Seccomp: cfg.seccomp}); err != nil {
		return err
	}
	err = s.serve(ctl.Listener(cancel), gone.Done())
	if errors.Is(err, net.ErrClosed) {
		return nil // the worker has gone, or destroyed the sandbox
	}
	return err
}
