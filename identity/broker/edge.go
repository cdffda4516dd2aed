package broker

import (
	"errors"
	"fmt"
	"strings"

	"github.com/stepward/stepward/internal/redact"
)

// A storeError is a store's error with a text that may leave the broker. What else is in
// it stays: it is asked about, and not looked into.
type storeError struct {
	text string
	err  error
}

func (e *storeError) Error() string { return e.text }

// Is says what the store's error is.
func (e *storeError) Is(target error) bool { return errors.Is(e.err, target) }

// outward makes a store's error one that a worker may have, and that may be recorded: stores are
// made of clients that quote requests and answers. It is without the value that the store
// returned with it, and without what addresses authenticate with; a text with what looks like somebody's
// token does not leave at all.
func outward(err error, value []byte) error {
	text, secret := err.Error(), string(value)
	var set redact.Set
	if set.Add("value", secret, true) == nil {
		text = set.Redact(text)
	}
	text, kinds := redact.Foreign(text)
	if secret != "" && strings.Contains(text, secret) { // too short to be redacted
		kinds = append(kinds, "the value")
	}
	if len(kinds) > 0 {
		text = "what the store says is kept back: it has " + strings.Join(kinds, ", ")
	}
	return &storeError{text, err}
}

// panicked makes an error of a store's panic, which may be about anything.
func panicked(p any) error { return fmt.Errorf("it panicked with a %T", p) }
