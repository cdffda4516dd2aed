package runner

import "fmt"

// What a tool runner with a command that does nothing can live with.
const (
	leastMemory    = 32 << 20
	leastCPU       = 0.01 // of a core: what the kernel can give in a period
	leastOpenFiles = 64
)

// TooLow returns the first limit that is too low for a sandbox to be there at all, with what it has to be at least.
// Zero is none.
func TooLow(memory int64, cpu float64, openFiles int) (field, reason string) {
	switch {
	case memory != 0 && memory < leastMemory:
		return "Limits.Memory", fmt.Sprintf("%d bytes are too few for the tool runner itself, which needs %d (%d MiB)", memory, leastMemory, leastMemory>>20)
	case cpu != 0 && cpu < leastCPU:
		return "Limits.CPU", fmt.Sprintf("%g cores are too few, it is %g at least", cpu, leastCPU)
	case openFiles != 0 && openFiles < leastOpenFiles:
		return "Limits.OpenFiles", fmt.Sprintf("%d are too few for the tool runner itself, which needs %d", openFiles, leastOpenFiles)
	}
	return "", ""
}
