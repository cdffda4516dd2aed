//go:build !linux

package runner

import "errors"

func run(string, Guest) error { return errors.New("sandboxes need Linux") }
