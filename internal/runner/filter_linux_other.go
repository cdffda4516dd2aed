//go:build linux && !amd64 && !arm64

package runner

// No filter is generated for this machine.
var filter []instruction
