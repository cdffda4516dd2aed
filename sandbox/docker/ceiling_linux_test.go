package docker

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stepward/stepward/sandbox"
)

// What cannot be limited for the commands in gVisor meets a ceiling of the engine's: of memory
// here. The sandbox is lost then, and says so; no command has a result that looks like its own.
func TestGVisorCeiling(t *testing.T) {
	s, err := sandbox.Start(t.Context(), gvisor(t), sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Destroy(context.Background()) })
	if err := s.Command(ProgramPath, "probe:use", "1ms", fmt.Sprint(2*DefaultMemory)).Run(t.Context()); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("twice the memory that there is: %v, want ErrLost", err)
	}
}
