// Package launch is how workers have their sandboxes made by a broker's process, which owns the engine that makes
// them: what it says to a worker and hears from it, and what it gives each sandbox to prove itself with.
package launch

import (
	"context"
	"errors"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/sandbox"
)

// Name is that of the backend of workers that have their sandboxes made so.
const Name = "launcher"

type witnessKey struct{}

// With has a backend give the sandbox that it makes a witness.
func With(ctx context.Context, w envelope.Witness) context.Context {
	return context.WithValue(ctx, witnessKey{}, w)
}

// Witness returns that of a sandbox that is about to be made. The zero one: it has none.
func Witness(ctx context.Context) envelope.Witness {
	w, _ := ctx.Value(witnessKey{}).(envelope.Witness)
	return w
}

type installationKey struct{}

// In has a backend mind whose its sandboxes are: those of other installations do not exist.
func In(ctx context.Context, installation string) context.Context {
	return context.WithValue(ctx, installationKey{}, installation)
}

// Installation returns whose sandboxes a backend has to do with; empty: those that workers make without a broker.
func Installation(ctx context.Context) string {
	s, _ := ctx.Value(installationKey{}).(string)
	return s
}

// Path is the prefix of all calls, which have the names of the methods of sandbox.Backend. They are posted as JSON,
// but for Dial: that is an upgrade of its connection to Protocol.
const (
	Path     = "/launch/"
	Protocol = "stepward-launch"
)

// A Request is what a call has.
type Request struct {
	ID       string            `json:",omitempty"`
	Schema   string            `json:",omitempty"`
	Creation *sandbox.Creation `json:",omitempty"`
}

// A Response is its answer.
type Response struct {
	Failure      *Failure              `json:",omitempty"`
	Capabilities *sandbox.Capabilities `json:",omitempty"`
	Enforcement  *sandbox.Enforcement  `json:",omitempty"`
	Listed       []sandbox.Listed      `json:",omitempty"`
}

// A Failure is an error of a backend, as it goes over the wire.
type Failure struct {
	Text        string
	Lost        bool                      `json:",omitempty"`
	Unsupported *sandbox.UnsupportedError `json:",omitempty"`
	Image       *image                    `json:",omitempty"`
	Unavailable *unavailable              `json:",omitempty"`
}

type (
	image       struct{ Backend, Image, Reason, Err string }
	unavailable struct{ Backend, Reason, Err string }
)

func newFailure(err error) *Failure {
	if err == nil {
		return nil
	}
	f := &Failure{Text: err.Error(), Lost: errors.Is(err, sandbox.ErrLost)}
	f.Unsupported, _ = errors.AsType[*sandbox.UnsupportedError](err)
	if e, ok := errors.AsType[*sandbox.ImageError](err); ok {
		f.Image = &image{e.Backend, e.Image, e.Reason, text(e.Err)}
	}
	if e, ok := errors.AsType[*sandbox.UnavailableError](err); ok {
		f.Unavailable = &unavailable{e.Backend, e.Reason, text(e.Err)}
	}
	return f
}

// Err returns the error that a failure is of; nil is none.
func (f *Failure) Err() error {
	switch {
	case f == nil:
		return nil
	case f.Unsupported != nil:
		return f.Unsupported
	case f.Image != nil:
		return &sandbox.ImageError{Backend: f.Image.Backend, Image: f.Image.Image, Reason: f.Image.Reason, Err: said(f.Image.Err)}
	case f.Unavailable != nil:
		return &sandbox.UnavailableError{Backend: f.Unavailable.Backend, Reason: f.Unavailable.Reason, Err: said(f.Unavailable.Err)}
	case f.Lost:
		return &lost{f.Text}
	}
	return errors.New(f.Text)
}

// lost is an error that is sandbox.ErrLost, and has its text in it.
type lost struct{ text string }

func (e *lost) Error() string { return e.text }

func (e *lost) Unwrap() error { return sandbox.ErrLost }

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func said(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}
