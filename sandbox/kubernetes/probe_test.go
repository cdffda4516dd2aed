package kubernetes

import "testing"

// What cannot be read, or says something else, holds nothing.
func TestWhatIsSeenInside(t *testing.T) {
	for _, c := range []struct {
		name  string
		holds func(string) bool
		text  string
		want  bool
	}{
		{"ids", mapsIDs, "         0          0 4294967295\n", false},
		{"ids", mapsIDs, "         0     655360      65536\n", true},
		{"ids", mapsIDs, "", false},
		{"memory", holdsMemory, "67108864\n", true},
		{"memory", holdsMemory, "max\n", false},
		{"memory", holdsMemory, "9223372036854771712\n", false},
		{"memory", holdsMemory, "", false},
		{"CPU", holdsCPU, "50000 100000\n", true},
		{"CPU", holdsCPU, "50000\n", true},
		{"CPU", holdsCPU, "max 100000\n", false},
		{"CPU", holdsCPU, "-1\n", false},
		{"CPU", holdsCPU, "", false},
		{"disk", holdsDisk, "tmpfs /workspace tmpfs rw,relatime,size=1024k 0 0\ntmpfs /tmp tmpfs rw,relatime,size=1024k 0 0\n", true},
		{"disk", holdsDisk, "tmpfs /workspace tmpfs rw,relatime,size=1024k 0 0\ntmpfs /tmp tmpfs rw,relatime,size=10240k 0 0\n", false},
		{"disk", holdsDisk, "/dev/vda /workspace ext4 rw 0 0\n", false},
		{"disk", holdsDisk, "", false},
	} {
		if got := c.holds(c.text); got != c.want {
			t.Errorf("%s: %q: %v", c.name, c.text, got)
		}
	}
}
