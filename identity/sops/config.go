package sops

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Config says where the files are, and what decrypts them.
type Config struct {
	// Dir has a folder for each tenant. Required.
	Dir string

	// Program is sops, of version 3.9 or later. Defaults to the one in PATH.
	Program string

	// Env is the whole environment of the program, as "SOPS_AGE_KEY_FILE=/run/credentials/age". It
	// gets nothing of the broker's.
	Env []string

	// Timeout is how long one call of the program may take. Defaults to 10 seconds.
	Timeout time.Duration
}

const timeoutDefault = 10 * time.Second

// A Store reads a directory of encrypted files. It may be used by several
// goroutines at a time.
type Store struct {
	config Config
	root   *os.Root
}

// New opens the directory, and finds the program.
func New(config Config) (*Store, error) {
	if config.Dir == "" {
		return nil, errors.New("sops: Config.Dir is required")
	}
	if config.Timeout < 0 {
		return nil, fmt.Errorf("sops: Config.Timeout is %v", config.Timeout)
	}
	config.Timeout = cmp.Or(config.Timeout, timeoutDefault)
	program, err := exec.LookPath(cmp.Or(config.Program, "sops"))
	if err == nil {
		program, err = filepath.Abs(program)
	}
	if err != nil {
		return nil, fmt.Errorf("sops: %w", err)
	}
	config.Program = program
	root, err := os.OpenRoot(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("sops: %w", err)
	}
	return &Store{config, root}, nil
}

// Close ends the use of the directory.
func (s *Store) Close() error { return s.root.Close() }
