package broker

import (
	"fmt"

	"github.com/stepward/stepward/internal/confine"
)

// harden keeps others of the broker's user out of its memory.
func harden() error {
	if err := confine.Harden(); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	return nil
}
