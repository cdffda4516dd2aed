package runner

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
)

// install copies this program to the path that the environment names, for
// another container of the pod to start; and what the runner there is to prove itself with.
func install() error {
	path := os.Getenv(EnvInstall)
	mode, err := strconv.ParseUint(os.Getenv(EnvInstallMode), 8, 9)
	if path == "" || err != nil {
		return fmt.Errorf("%s is not a path, or %s is not a mode in octal", EnvInstall, EnvInstallMode)
	}
	if loader, err := loaderOf(confine.Self); err != nil {
		return err
	} else if loader != "" {
		return fmt.Errorf("the program of the runner's image is dynamic, it needs %s, which a sandbox's image may lack: build it with CGO_ENABLED=0", loader)
	}
	from, err := os.Open(confine.Self)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Clean(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Chmod(os.FileMode(mode)), to.Close()); err != nil {
		return err
	}
	return installWitness()
}

// loaderOf returns the dynamic loader that an executable asks for.
func loaderOf(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name, err := io.ReadAll(p.Open())
			return strings.TrimRight(string(name), "\x00"), err
		}
	}
	return "", nil
}

// limits sets the limits of processes that the environment names: a pod's
// container cannot be given them from outside.
func limits() error {
	for name, set := range map[string]func(int) error{
		EnvPIDs: confine.LimitProcesses,
		EnvOpenFiles: func(n int) error {
			return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(n), Max: uint64(n)})
		},
	} {
		text := os.Getenv(name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n <= 0 {
			return fmt.Errorf("%s is not a number above zero", name)
		}
		if err := set(n); err != nil {
			return fmt.Errorf("%s=%d: %w", name, n, err)
		}
	}
	return nil
}

// Times of awaitClosed: how long one try to connect may take, and all together.
const (
	closedTry   = 500 * time.Millisecond
	closedBound = 30 * time.Second
)

// errOpen reports a network that should be closed, and is not.
var errOpen = errors.New("the network is still open")

// awaitClosed returns when two tries in a row to reach an address failed that can
// be reached from where no policy forbids it.
func awaitClosed(ctx context.Context, address string) error {
	host, port, ok := strings.Cut(address, " ")
	if !ok || host == "" || port == "" {
		return fmt.Errorf("%s=%q is not a host and a port", EnvClosed, address)
	}
	address = net.JoinHostPort(host, port)
	ctx, cancel := context.WithTimeout(ctx, closedBound)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for failed := 0; failed < 2; {
		c, err := (&net.Dialer{Timeout: closedTry}).DialContext(ctx, "tcp", address)
		switch {
		case err == nil:
			c.Close()
			failed = 0
		case ctx.Err() == nil:
			failed++
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %s can be reached after %v", errOpen, address, closedBound)
		}
	}
	return nil
}

// errWritable reports a directory that commands could write to, beyond all limits.
var errWritable = errors.New("there is another directory to write to")

// noVolumes fails if there is a volume that can be written to beside those of a sandbox:
// for what an image has as VOLUME a node makes one, on its own disk. A Landlock domain
// keeps commands from it.
func noVolumes() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if dir := volumeIn(string(mounts), filepath.Dir(os.Getenv(EnvWitnessFile))); dir != "" {
		return fmt.Errorf("%w: %s", errWritable, dir)
	}
	return nil
}

// Mounts that can be written to and are no volume: the pod's own files and, below some directories, file
// systems that keep nothing on a disk.
var (
	podsOwn     = []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log", "/dev/shm"}
	kernelsDirs = []string{"/proc", "/sys", "/dev"}
	kernelsOwn  = []string{"proc", "sysfs", "cgroup", "cgroup2", "tmpfs", "devtmpfs", "dev", "devpts", "mqueue"}
)

// volumeIn returns a directory that a list of mounts says can be written to, and that is
// none of a sandbox's own or of the kernel's.
func volumeIn(mounts string, own string) string {
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 6 || !slices.Contains(strings.Split(f[5], ","), "rw") {
			continue
		}
		dir := f[4]
		_, source, _ := strings.Cut(line, " - ")
		kind, _, _ := strings.Cut(source, " ")
		kernels := slices.Contains(kernelsOwn, kind) && slices.ContainsFunc(kernelsDirs, func(of string) bool { return dir == of || strings.HasPrefix(dir, of+"/") })
		if !kernels && !slices.Contains(podsOwn, dir) && !slices.Contains([]string{"/", Workspace, "/tmp", own}, dir) {
			return dir
		}
	}
	return ""
}

// listen listens on a unix socket, or on loopback when its name is an address.
func listen(socket string) (net.Listener, error) {
	if host, _, err := net.SplitHostPort(socket); err == nil {
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return nil, fmt.Errorf("%s=%s is not on loopback", EnvSocket, socket)
		}
		ln, err := net.Listen("tcp", socket)
		return greeting{ln}, err
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(socket, "@") {
		// The worker on the other side of a shared directory has another uid.
		// Who may reach it is up to the directory and the token.
		if err := os.Chmod(socket, 0o666); err != nil {
			return nil, err
		}
	}
	return ln, nil
}

// A greeting says Connected first on each connection: whoever forwards a port
// does not tell whether anything listens there.
type greeting struct{ net.Listener }

func (g greeting) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err == nil {
		_, _ = io.WriteString(c, Connected) // fits the empty buffer of a socket
	}
	return c, err
}

// terminated returns a channel that is closed when the one who started the
// sandbox asks it to end. Without Landlock's scope of signals a command could ask
// as well, so that nobody is listened to then.
func terminated(landlock bool) <-chan struct{} {
	if !landlock || confine.Landlock() < 6 {
		return nil
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	gone := make(chan struct{})
	go func() {
		<-term
		close(gone)
	}()
	return gone
}
