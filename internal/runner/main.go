package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/envelope"
)

const modeGuest = "guest"

// guestBegin is how long a guest's process may take from the initialization of its
// packages to Main.
const guestBegin = 15 * time.Second

// late ends the process of a guest that does not get to Main.
var late *time.Timer

// newKey makes the key of an attempt. Nil: the program has no part that can.
var newKey func(f envelope.Facts, broker []byte, w envelope.Witness) (Key, error)

// A Key opens one envelope, once: see package envelope.
type Key interface {
	Hello() []byte
	Open(raw []byte) (envelope.Opened, error)
}

// unwrap has what is wrapped. Nil: the program has no part that can.
var unwrap func(ctx context.Context, wrapped []byte, dial Dial) (Unwrapped, error)

// An Unwrapped is what comes of a wrapped value.
type Unwrapped struct {
	Value []byte
	Weak  bool // it may be
	Lost  bool // after an error: somebody else may have it
	Bad   bool // after an error: there is no such value
}

// A Dial connects as programs in the sandbox do.
type Dial func(ctx context.Context, host string, port int) (net.Conn, error)

// Early serves as the part of the sandbox that the environment names, before main,
// and does not return then. The process of a guest, which needs all of the program,
// goes on to [Main], and ends if it does not get there. See package early.
func Early(keys func(f envelope.Facts, broker []byte, w envelope.Witness) (Key, error), values func(ctx context.Context, wrapped []byte, dial Dial) (Unwrapped, error)) {
	newKey, unwrap = keys, values
	switch mode := os.Getenv(EnvMode); mode {
	case "":
	case modeGuest:
		late = time.AfterFunc(guestBegin, func() {
			exit(mode, errors.New("bootstrap.Init is not the first call in main of this program"))
		})
	default:
		exit(mode, serve(mode, nil))
	}
}

// Main serves as the part of the sandbox that the environment names, and does
// not return then. Without STEPWARD_SANDBOX it does nothing. It must come before
// anything else in main: what ran earlier ran inside the sandbox.
func Main(g Guest) {
	mode := os.Getenv(EnvMode)
	if mode == "" {
		return
	}
	if late != nil {
		late.Stop()
	}
	exit(mode, serve(mode, g))
}

func serve(mode string, g Guest) error {
	if mode == "dial" {
		return pipe(os.Getenv(EnvSocket), os.Stdin, os.Stdout)
	}
	return run(mode, g)
}

func exit(mode string, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "stepward: "+mode+":", err)
		os.Exit(confine.ExitSetup)
	}
	os.Exit(0)
}

// Connected is what dial writes to its standard error when it has reached the
// runner; an error message stands there otherwise.
const Connected = "connected\n"

// pipe copies between the socket and in, out. It ends when in does.
func pipe(socket string, in io.Reader, out io.Writer) error {
	c, err := reach(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	confine.KeepThreads(4) // what runs later may leave none
	if _, err := io.WriteString(os.Stderr, Connected); err != nil {
		return err
	}
	done := make(chan error, 2)
	go func() { _, err := io.Copy(c, in); done <- err }()
	go func() { _, err := io.Copy(out, c); done <- err }()
	return <-done
}

// reach connects to a runner that may still be starting.
func reach(socket string) (net.Conn, error) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.Dial("unix", socket)
		if err == nil || time.Now().After(deadline) {
			return c, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// withoutOwn returns env without the variables of the runner.
func withoutOwn(env []string) []string {
	out := env[:0:0]
	for _, kv := range env {
		if !strings.HasPrefix(kv, "STEPWARD_") {
			out = append(out, kv)
		}
	}
	return out
}
