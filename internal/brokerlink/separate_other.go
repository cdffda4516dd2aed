//go:build !linux

package brokerlink

import (
	"context"
	"errors"
)

// CanSeparate is for Linux.
func CanSeparate() bool { return false }

// Separate is for Linux.
func Separate(User, User) error { return errors.ErrUnsupported }

// Launching is for Linux.
func Launching() bool { return false }

// Launch is for Linux.
func Launch() error { return errors.ErrUnsupported }

// Hindered is for Linux.
func Hindered(...User) string { return "" }

// Pin is for Linux.
func Pin(Setup) {}

// Release is for Linux.
func Release() {}

// LeftRoot is for Linux.
func LeftRoot() bool { return false }

func launch(context.Context, Setup, func(string)) (*child, error) { return nil, errors.ErrUnsupported }
