package runner

import (
	"os"
	"strings"
)

// holdsCapabilities reports whether the runner has any left.
func holdsCapabilities() bool {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return true
	}
	for _, line := range strings.Split(string(raw), "\n") {
		for _, set := range []string{"CapInh:", "CapPrm:", "CapEff:", "CapAmb:"} {
			if v, ok := strings.CutPrefix(line, set); ok && strings.Trim(v, "\t 0") != "" {
				return true
			}
		}
	}
	return false
}
