//go:build !linux

package sandboxtest

import (
	"context"
	"errors"

	"github.com/stepward/stepward/internal/runner"
)

func command(string, []string) int { return 2 }

func guest(context.Context, runner.GuestRequest) ([]byte, error) {
	return nil, errors.New("sandboxes need Linux")
}
