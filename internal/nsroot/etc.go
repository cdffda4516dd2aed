package nsroot

import "fmt"

// Generated are files of /etc that are made up rather than shown.
var Generated = map[string]string{
	"passwd":   fmt.Sprintf("sandbox:x:%d:%d::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n", UID, UID),
	"group":    fmt.Sprintf("sandbox:x:%d:\nnogroup:x:65534:\n", UID),
	"hosts":    "127.0.0.1 localhost sandbox\n::1 localhost\n",
	"hostname": "sandbox\n",

	// Of the tool runner, if there is a network.
	"resolv.conf": "nameserver 127.0.0.1\n",
}

// MountPoints are directories that the root of an image has, for the rest of the
// sandbox's file system is mounted there.
var MountPoints = []string{"dev", "proc", "tmp", "workspace"}
