//go:build linux && !amd64 && !arm64

package confine

// No filter is generated for this machine.
var filter []instruction
