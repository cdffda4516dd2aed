//go:build !linux

package function

// Serve does nothing: this is no execution environment of AWS Lambda.
func Serve() {}
