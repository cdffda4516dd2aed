package runner

import (
	"fmt"
	"strings"
	"testing"
)

// What can be written to is a volume wherever it is, unless the kernel or the pod has it.
func TestVolumeIn(t *testing.T) {
	const pod = `513 400 0:66 / / rw,relatime - overlay overlay rw
514 513 0:70 / /proc rw,nosuid - proc proc rw
515 513 0:71 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k
516 515 0:72 / /dev/pts rw - devpts devpts rw
517 515 0:55 / /dev/shm rw - tmpfs shm rw
518 515 254:0 /var/lib/kubelet/pods/x/containers/main/y /dev/termination-log rw - ext4 /dev/vda rw
519 513 0:60 / /sys ro - sysfs sysfs ro
520 513 254:0 /var/lib/kubelet/pods/x/etc-hosts /etc/hosts rw - ext4 /dev/vda rw
521 513 0:80 / /workspace rw - tmpfs tmpfs rw
522 513 0:81 / /tmp rw - tmpfs tmpfs rw
523 513 254:0 /volumes/runner /stepward ro - ext4 /dev/vda rw
524 513 0:82 / /witness rw - tmpfs tmpfs rw
`
	if dir := volumeIn(pod, "/witness"); dir != "" {
		t.Errorf("%s of a pod without volumes", dir)
	}
	for _, dir := range []string{"/data", "/tmp/x", "/dev/data", "/proc/data", "/sys/data", "/dev/shm/x", "/etc"} {
		volume := fmt.Sprintf("530 513 254:0 /containerd/volumes/z %s rw,relatime - ext4 /dev/vda rw\n", dir)
		if got := volumeIn(pod+volume, "/witness"); got != dir {
			t.Errorf("%s: got %q", dir, got)
		}
		if got := volumeIn(pod+strings.Replace(volume, "rw,", "ro,", 1), "/witness"); got != "" {
			t.Errorf("%s, which cannot be written to: got %q", dir, got)
		}
	}
}
