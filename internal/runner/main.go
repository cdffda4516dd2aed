package runner

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// Main serves as the part of the sandbox that the environment names, and does
// not return then. Without STEPWARD_SANDBOX it does nothing. It must come before
// anything else in main: what ran earlier ran inside the sandbox.
func Main(g Guest) {
	mode := os.Getenv(EnvMode)
	if mode == "" {
		return
	}
	var err error
	switch mode {
	case "dial":
		err = pipe(os.Getenv(EnvSocket), os.Stdin, os.Stdout)
	default:
		err = run(mode, g)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stepward: "+mode+":", err)
		os.Exit(exitSetup)
	}
	os.Exit(0)
}

// exitSetup is the exit status of a part that could not begin its work.
const exitSetup = 125

// pipe copies between the socket and in, out. It ends when in does.
func pipe(socket string, in io.Reader, out io.Writer) error {
	c, err := net.DialTimeout("unix", socket, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	done := make(chan error, 2)
	go func() { _, err := io.Copy(c, in); done <- err }()
	go func() { _, err := io.Copy(out, c); done <- err }()
	return <-done
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
