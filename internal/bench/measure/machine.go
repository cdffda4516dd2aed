package measure

import (
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// Machine says what the figures were measured on. What cannot be found out is
// left out.
func Machine() map[string]string {
	m := map[string]string{
		"Go":    runtime.Version(),
		"Cores": strconv.Itoa(runtime.NumCPU()),
		"OS":    runtime.GOOS + "/" + runtime.GOARCH,
	}
	for name, from := range map[string][2]string{
		"CPU":    {"/proc/cpuinfo", `(?m)^model name\s*:\s*(.+)$`},
		"Memory": {"/proc/meminfo", `(?m)^MemTotal:\s*(.+)$`},
		"Kernel": {"/proc/sys/kernel/osrelease", `(.+)`},
	} {
		text, err := os.ReadFile(from[0])
		if err != nil {
			continue
		}
		if found := regexp.MustCompile(from[1]).FindSubmatch(text); found != nil {
			m[name] = strings.TrimSpace(string(found[1]))
		}
	}
	return m
}
