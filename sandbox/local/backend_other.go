//go:build !linux

package local

import (
	"context"
	"net"
	"runtime"

	"github.com/stepward/stepward/sandbox"
)

// A Backend makes local sandboxes. On this system it cannot.
type Backend struct{}

// New returns a backend whose methods fail with an [sandbox.UnavailableError].
func New(Config) *Backend { return &Backend{} }

func absent() error {
	return unavailable("it needs Linux, and this is "+runtime.GOOS+"; use package sandbox/docker", nil)
}

// Name returns "local".
func (*Backend) Name() string { return Name }

// Probe fails.
func (*Backend) Probe(context.Context) (sandbox.Capabilities, error) {
	return sandbox.Capabilities{}, absent()
}

// Create fails.
func (*Backend) Create(context.Context, sandbox.Creation) (sandbox.Enforcement, error) {
	return sandbox.Enforcement{}, absent()
}

// Dial fails.
func (*Backend) Dial(context.Context, string) (net.Conn, error) { return nil, absent() }

// List returns nothing.
func (*Backend) List(context.Context, string) ([]sandbox.Listed, error) { return nil, nil }

// Destroy does nothing.
func (*Backend) Destroy(context.Context, string) error { return nil }
