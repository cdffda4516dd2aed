package shim

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// secrets adds the secrets to the request's environment, and returns the files of those
// that are files: the command inherits them from descriptor first on. They are in no
// directory, so that only who has a descriptor can open them.
func (r *Request) secrets(first int) (files []*os.File, err error) {
	for _, s := range r.Secrets {
		value := s.value
		if s.File {
			f, err := SecretFile(value)
			if err != nil {
				return files, err
			}
			value = []byte(fmt.Sprintf("/proc/self/fd/%d", first+len(files)))
			files = append(files, f)
		}
		r.Env = append(r.Env, s.Name+"="+string(value))
		clear(s.value)
	}
	return files, nil
}

// SecretFile returns a file with the value that has no name, cannot be changed and can
// be opened for reading by its own user alone.
func SecretFile(value []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("secret", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "secret")
	if _, err = f.Write(value); err == nil {
		if err = f.Chmod(0o400); err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
		}
	}
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make a file: %w", err)
	}
	return f, nil
}
