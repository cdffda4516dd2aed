package envelope

import "errors"

// Why an envelope, a hello or a renewal is refused. No text of an error has a value.
var (
	// ErrMalformed reports bytes that are none of ours, or a content that is not allowed.
	ErrMalformed = errors.New("envelope: malformed")

	// ErrVersion reports that the two ends have no version in common.
	ErrVersion = errors.New("envelope: no common version")

	// ErrSignature reports an envelope, or a renewal, that is not of the broker's.
	ErrSignature = errors.New("envelope: not signed by the broker")

	// ErrFacts reports an envelope for something else.
	ErrFacts = errors.New("envelope: for something else")

	// ErrSealed reports items that were altered, or sealed to another key.
	ErrSealed = errors.New("envelope: cannot be opened")

	// ErrUsed reports a key whose envelope has been there, whatever became of it.
	ErrUsed = errors.New("envelope: the key was used already")
)
