package runner

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/shim"
)

// takeSecrets makes secrets variables of this process, in which nobody else can read
// them: its environment as others see it is that from its start.
func takeSecrets(all []*rpc.GuestSecret) error {
	for _, s := range all {
		value := string(s.Value)
		if s.File {
			f, err := shim.SecretFile(s.Value)
			if err != nil {
				return err
			}
			fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 100) // what it starts inherits it
			f.Close()
			if err != nil {
				return err
			}
			value = fmt.Sprintf("/proc/self/fd/%d", fd)
		}
		if err := os.Setenv(s.Name, value); err != nil {
			return err
		}
		clear(s.Value)
	}
	return nil
}
