package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// podmanRuntime runs runc without a limit that only a root with CAP_SYS_RESOURCE can
// give, and which the engine asks for.
const podmanRuntime = `#!/bin/sh
file=
for arg; do
	case $file in
	bundle) file=$arg/config.json; break ;;
	process) file=$arg; break ;;
	esac
	case $arg in
	--bundle | --process) file=${arg#--} ;;
	esac
done
[ ! -f "$file" ] || sed -i 's/{"type":"RLIMIT_NPROC",[^}]*},\{0,1\}//; s/,]/]/g' "$file"
exec %q "$@"
`

// startPodman starts Podman's service with a store of its own.
func startPodman() (host string, err error) {
	if os.Getuid() != 0 {
		return "", errors.New("only root can start it: run the tests as root")
	}
	podman, err := exec.LookPath("podman")
	if err != nil {
		return "", errors.New("no podman in PATH (apt-get install podman)")
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return "", errors.New("no runc in PATH (apt-get install runc)") // crun has no mixed cgroups
	}
	dir, err := os.MkdirTemp("/tmp", "stepward-podman-") // short: it holds Unix sockets
	if err != nil {
		return "", err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	command := fmt.Sprintf("CONTAINERS_CONF=%q CONTAINERS_REGISTRIES_CONF=%q %q --root %q --runroot %q --tmpdir %q",
		at("containers.conf"), at("registries.conf"), podman, at("data"), at("run"), at("tmp"))
	host = "unix://" + at("s")
	for _, f := range []struct {
		name, text string
		mode       os.FileMode
	}{
		{"runc", fmt.Sprintf(podmanRuntime, runc), 0o700},
		{"containers.conf", fmt.Sprintf("[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n[engine.runtimes]\nrunc = [%q]\n", at("runc")), 0o600},
		{"registries.conf", "[[registry]]\nlocation = \"127.0.0.1\"\ninsecure = true\n", 0o600},
		{"begin", fmt.Sprintf("#!/bin/sh\ncd %q\nexec env %s system service --time=0 %q\n", dir, command, host), 0o700}, // conmon leaves files where it is
		{"end", fmt.Sprintf("#!/bin/sh\n%s rm -af -t 0\n", command), 0o700},
	} {
		if err := os.WriteFile(at(f.name), []byte(f.text), f.mode); err != nil {
			return "", err
		}
	}
	return host, startEngine(dir, host, at("begin"))
}
