//go:build !linux

package runner

import (
	"errors"

	"github.com/stepward/stepward/internal/rpc"
)

func run(string, Guest) error { return errors.New("sandboxes need Linux") }

func takeSecrets([]*rpc.GuestSecret) error { return errors.New("sandboxes need Linux") }
