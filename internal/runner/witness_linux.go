package runner

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/envelope"
)

// readWitness takes what the runner proves itself to the broker with. Nothing is left of it for what runs here
// later: a file is removed. One that could read the runner's memory would find it there, and so it is not read, and the
// runner proves nothing, where not even that is closed.
func readWitness(closed func() bool) (w envelope.Witness, err error) {
	if w.Backend = os.Getenv(EnvWitness); w.Backend == "" {
		return w, nil
	}
	open := !closed()
	if w.Broker, err = base64.StdEncoding.DecodeString(os.Getenv(EnvWitnessBroker)); err != nil {
		return w, fmt.Errorf("%s: %w", EnvWitnessBroker, err)
	}
	name, in := os.Getenv(EnvWitnessFile), os.Stdin
	if name != "" {
		if in, err = os.Open(name); err != nil {
			return w, fmt.Errorf("%s: %w", EnvWitnessFile, err)
		}
		defer in.Close()
		if err := os.Remove(name); err != nil {
			return w, fmt.Errorf("%s: %w", EnvWitnessFile, err)
		}
	}
	if open {
		w = envelope.Witness{}
	} else if w.Secret, err = io.ReadAll(io.LimitReader(in, 64<<10)); err != nil {
		return w, fmt.Errorf("%s: %w", EnvWitness, err)
	}
	if w.Secret = bytes.TrimSpace(w.Secret); !open && !w.Fits() {
		return w, fmt.Errorf("%s: %d bytes are none", EnvWitness, len(w.Secret))
	}
	if name != "" {
		return w, nil
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return w, err
	}
	defer null.Close()
	return w, unix.Dup3(int(null.Fd()), 0, 0)
}

// installWitness copies what the runner is to find.
func installWitness() error {
	from := os.Getenv(EnvInstallWitness)
	if from == "" {
		return nil
	}
	secret, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("%s: %w", EnvInstallWitness, err)
	}
	return os.WriteFile(os.Getenv(EnvWitnessFile), secret, 0o400)
}
