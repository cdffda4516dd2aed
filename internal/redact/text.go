package redact

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Redact returns a short text without the values of the set.
func (s *Set) Redact(text string) string {
	if s.table.Load() == nil {
		return text
	}
	var b strings.Builder
	w := s.Writer(&b)
	_, _ = w.Write([]byte(text)) // a Builder takes all
	_ = w.Close()
	return b.String()
}

// JSON returns a JSON document whose strings, keys as well, are without the values
// of the set. Everything else is left as it is, byte for byte. If there is a value
// elsewhere, or the document is none, the error is a [*FoundError], and the
// document must not be passed on.
func (s *Set) JSON(document []byte) ([]byte, error) {
	if s.table.Load() == nil {
		return document, nil
	}
	if !json.Valid(document) {
		return document, s.refuse(document)
	}
	var out []byte
	rest := document
	for {
		i := bytes.IndexByte(rest, '"')
		if i < 0 {
			break
		}
		n := i + 1
		for rest[n] != '"' {
			if rest[n] == '\\' {
				n++
			}
			n++
		}
		n++
		out = append(append(out, rest[:i]...), s.literal(rest[i:n])...)
		rest = rest[n:]
	}
	out = append(out, rest...)
	return out, s.refuse(out)
}

// literal redacts a string as it stands in JSON.
func (s *Set) literal(literal []byte) []byte {
	if len(literal) < minLength {
		return literal
	}
	var text string
	if err := json.Unmarshal(literal, &text); err != nil {
		return literal // not reached: the document is valid
	}
	if redacted := s.Redact(text); redacted != text {
		return append(append([]byte{'"'}, marshal(false)(redacted)...), '"')
	}
	return literal
}

// refuse returns an error if there is a value in what cannot be rewritten.
func (s *Set) refuse(content []byte) error {
	if names := s.Find(content); len(names) > 0 {
		return &FoundError{names}
	}
	return nil
}

// A FoundError reports values in what is not rewritten, and must not be passed on.
type FoundError struct {
	Names []string // in order
}

func (e *FoundError) Error() string {
	return "redact: contains the value of " + strings.Join(e.Names, ", ")
}
