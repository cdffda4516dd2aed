package vault

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/hashicorp/vault/api"
)

// An Error is what Vault answered, or that it did not. It tells no token and no value.
type Error struct {
	Doing    string   // what failed, with the path
	Status   int      // of HTTP; zero: there was no answer
	Messages []string // Vault's own
	Err      error    // one of package broker's where one fits, or the cause
}

func (e *Error) Error() string {
	text := "vault: " + e.Doing
	if e.Status != 0 {
		text += fmt.Sprintf(": status %d", e.Status)
	}
	if len(e.Messages) > 0 {
		text += ": " + strings.Join(e.Messages, "; ")
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// tokens are what Vault's and OpenBao's look like, old and new.
var tokens = regexp.MustCompile(`\b(hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}`)

const maxMessage = 300

// fail makes an Error of what the client returned. known fits the status, or is nil.
func fail(doing string, err, known error) error {
	answer, ok := errors.AsType[*api.ResponseError](err)
	if !ok {
		return &Error{Doing: doing, Err: err}
	}
	e := &Error{Doing: doing, Status: answer.StatusCode, Err: known}
	if answer.RawError {
		// Something between here and Vault, which may repeat the request.
		return e
	}
	for _, m := range answer.Errors {
		m = tokens.ReplaceAllString(strings.Join(strings.Fields(m), " "), "[token]")
		e.Messages = append(e.Messages, m[:min(len(m), maxMessage)])
	}
	return e
}

func status(err error) int {
	if answer, ok := errors.AsType[*api.ResponseError](err); ok {
		return answer.StatusCode
	}
	return 0
}

func forbidden(err error) bool { return status(err) == http.StatusForbidden }
