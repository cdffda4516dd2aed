package testenv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dockerScript runs the engine in a folder until fd 3 ends, which is when the
// process that started it ends, however it does. Then it runs the folder's program
// "end", if there is one. The umount is for the network namespaces that an engine
// leaves in its folder, and for what is mounted there.
const dockerScript = `
dir=$1; shift
(
	"$@" </dev/null >"$dir/log" 2>&1 3<&- &
	engine=$!
	{ read -r _; kill -TERM "$engine"; } <&3 &
	wait "$engine"
	[ ! -x "$dir/end" ] || "$dir/end" </dev/null >/dev/null 2>&1 3<&-
	grep -o " $dir/[^ ]*" /proc/self/mounts | sort -r | xargs -r umount -l
	rm -rf "$dir"
) </dev/null >/dev/null 2>&1 &
`

// startDocker starts an engine that touches no firewall and no network of the
// machine, so that it runs next to another one and inside of a container.
func startDocker() (host string, err error) {
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		return "", errors.New("no dockerd in PATH (apt-get install docker.io)")
	}
	if os.Getuid() != 0 {
		return "", errors.New("only root can start dockerd: start Docker, or run the tests as root")
	}
	dir, err := os.MkdirTemp("/tmp", "stepward-docker-") // short: it holds Unix sockets
	if err != nil {
		return "", err
	}
	// A network of its own is not to be had for gVisor in all places where an engine is.
	config := "{}"
	if runsc, err := exec.LookPath("runsc"); err == nil {
		config = fmt.Sprintf(`{"runtimes": {%q: {"path": %q, "runtimeArgs": ["--network=none"]}}}`, GVisorRuntime, runsc)
	}
	configFile := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(configFile, []byte(config), 0o600); err != nil {
		return "", err
	}
	// What an engine writes is as short-lived as the tests, and it waits for a disk at each step of
	// a container's life. Where this cannot be mounted it does.
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o711); err != nil {
		return "", err
	}
	_ = unix.Mount("tmpfs", data, "tmpfs", 0, "mode=0711")
	host = "unix://" + filepath.Join(dir, "s")
	return host, startEngine(dir, host, dockerd,
		"--config-file", configFile, "--host", host, "--data-root", data, "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--iptables=false", "--ip6tables=false", "--bridge=none")
}

// startEngine runs the program of an engine in its folder, and waits until it answers.
func startEngine(dir, host, program string, args ...string) error {
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer lifeR.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", dockerScript, "stepward-engine", dir, program}, args...)...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = []*os.File{lifeR}
	// A descriptor that no finalizer closes: it lives as long as the process.
	life, err := unix.FcntlInt(lifeW.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		lifeW.Close()
		err = cmd.Run()
	}
	if err != nil {
		return err
	}
	logFile := filepath.Join(dir, "log")
	var log []byte
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err := pingDocker(host); err == nil {
			return nil
		}
		text, err := os.ReadFile(logFile)
		if err != nil && len(log) > 0 {
			break // the engine has ended, and the shell has removed its folder
		}
		log = bytes.TrimSpace(text)
	}
	_ = unix.Close(life)
	return fmt.Errorf("%s does not start: %s", program, log[bytes.LastIndexByte(log, '\n')+1:])
}
