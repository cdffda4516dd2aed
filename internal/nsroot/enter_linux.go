package nsroot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/layers"
)

// base is where the new root is built. It must exist on every host.
const base = "/tmp"

// system are the host's directories that a sandbox sees, read-only.
var system = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "nix/store"}

// etc are the files below /etc that programs need and that hold no secret.
var etc = []string{
	"alternatives", "ca-certificates", "debian_version", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime",
	"mime.types", "nsswitch.conf", "os-release", "pki/tls/certs", "pki/ca-trust", "protocols", "services",
	"ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf", "timezone",
}

// masked are files of /proc that tell about the host.
var masked = []string{"kcore", "keys", "latency_stats", "timer_list", "sched_debug", "kallsyms", "kmsg", "sysrq-trigger"}

// forgo limits the process, and leaves the calling thread nothing to pass on to what it
// starts: no capability, nor a way to one. It keeps those that enter needs. The caller
// has locked its goroutine to that thread, and starts processes from it only.
func forgo(s Setup) error {
	return steps(s, step{"limit resources", limit}, step{"forgo capabilities", bequeathNone})
}

// settle makes the process one of its namespaces: until then it has the worker's id, to
// which they give no name.
func settle(s Setup) error {
	return steps(s, step{"show the processes", mountProc}, step{"take on the ids", takeOn}, step{"execute the program with them", executable})
}

// enter builds the sandbox's file system, makes it the root and drops capabilities.
func enter(s Setup) error {
	return steps(s,
		step{"build the root file system", build},
		step{"enter the root file system", enterRoot},
		step{"bring the loopback interface up", loopback},
		step{"drop capabilities", drop})
}

type step struct {
	what string
	do   func(Setup) error
}

func steps(s Setup, all ...step) error {
	for _, step := range all {
		if err := step.do(s); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

func build(s Setup) error {
	content := hostRoot
	if s.Image != "" {
		content = imageRoot
	}
	if err := content(s); err != nil {
		return err
	}
	if err := devices(); err != nil {
		return err
	}
	if s.Image != "" { // else it is part of the root
		if err := readOnly(base + "/dev"); err != nil {
			return err
		}
	}
	if err := processes(s); err != nil {
		return err
	}
	for dir, mode := range map[string]string{"/workspace": "0755", "/tmp": "1777"} {
		if err := os.MkdirAll(base+dir, 0o755); err != nil {
			return err
		}
		if err := tmpfs(base+dir, s.Disk, mode); err != nil {
			return err
		}
	}
	return nil
}

// hostRoot shows directories of the host.
func hostRoot(s Setup) error {
	if err := tmpfs(base, 4<<20, "0755"); err != nil {
		return err
	}
	dirs := system
	if s.Without.Has(layers.Mount) {
		dirs = nil
		entries, err := os.ReadDir("/")
		if err != nil {
			return err
		}
		for _, e := range entries {
			switch e.Name() {
			case "tmp", "proc", "dev", "workspace":
			default:
				dirs = append(dirs, e.Name())
			}
		}
	}
	for _, d := range dirs {
		if err := show("/"+d, s.Without.Has(layers.Mount)); err != nil {
			return err
		}
	}
	if !s.Without.Has(layers.Mount) {
		for _, f := range etc {
			if err := show("/etc/"+f, false); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(base+"/etc", 0o755); err != nil {
			return err
		}
		for name, text := range Generated {
			if err := os.WriteFile(base+"/etc/"+name, []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	if s.Bind != "" && !s.Without.Has(layers.Mount) {
		return show(s.Bind, false)
	}
	return nil
}

// imageRoot shows the tree of an image, which is shared and never written to: it has
// what the rest is mounted on.
func imageRoot(s Setup) error {
	var err error
	if s.Tree != nil {
		err = unix.MoveMount(int(s.Tree.Fd()), "", unix.AT_FDCWD, base, unix.MOVE_MOUNT_F_EMPTY_PATH)
		s.Tree.Close()
	} else {
		err = unix.Mount(s.Image, base, "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("mount the image: %w", err)
	}
	if err := readOnly(base); err != nil {
		return err
	}
	if err := tmpfs(base+"/dev", 1<<20, "0755"); err != nil {
		return err
	}
	if s.Bind == "" {
		return nil
	}
	over := base + filepath.Dir(s.Bind)
	if err := tmpfs(over, 1<<20, "0755"); err != nil {
		return err
	}
	if err := show(s.Bind, false); err != nil {
		return err
	}
	return readOnly(over)
}

// readOnly takes a mount from all writers, devices and set-user-ID programs from all.
func readOnly(path string) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(unix.AT_FDCWD, path, 0, &attr); err != nil {
		return fmt.Errorf("make %s read-only (needs Linux 5.12): %w", path, err)
	}
	return nil
}

func tmpfs(dir string, size int64, mode string) error {
	opts := fmt.Sprintf("size=%d,nr_inodes=%d,mode=%s", size, max(1<<10, size>>10), mode)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
	}
	return nil
}

// show makes what the host has at path visible at the same place of the new
// root: a symbolic link as a link, the rest by a bind mount. What the host does
// not have is left out.
func show(path string, writable bool) error {
	st, err := os.Lstat(path)
	if err != nil {
		return nil //nolint:nilerr // absent, or not for this user to see
	}
	to := base + path
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	switch {
	case st.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case st.IsDir():
		err = os.MkdirAll(to, 0o755)
	default:
		err = os.WriteFile(to, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(path, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
	if !writable {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if !strings.HasPrefix(path, "/dev/") {
		attr.Attr_set |= unix.MOUNT_ATTR_NODEV
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, to, unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("make %s read-only (needs Linux 5.12): %w", path, err)
	}
	return nil
}

func devices() error {
	if err := os.MkdirAll(base+"/dev", 0o755); err != nil {
		return err
	}
	for _, d := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := show("/dev/"+d, true); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
		"shm":  "/tmp", // nothing but /workspace and /tmp can be written to
		"ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, base+"/dev/"+name); err != nil {
			return err
		}
	}
	if err := os.Mkdir(base+"/dev/pts", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("devpts", base+"/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0600"); err != nil {
		return fmt.Errorf("mount /dev/pts: %w", err)
	}
	return nil
}

func processes(s Setup) error {
	proc := base + "/proc"
	if err := os.MkdirAll(proc, 0o555); err != nil {
		return err
	}
	if s.Without.Has(layers.PID) {
		return unix.Mount("/proc", proc, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err := unix.Mount("/proc", proc, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move /proc: %w", err)
	}
	if !s.Without.Has(layers.Network) {
		// For the name server, and for whoever wants to listen as on a machine of its own.
		if err := os.WriteFile(proc+"/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0); err != nil {
			return fmt.Errorf("open the ports below 1024: %w", err)
		}
	}
	for _, f := range masked {
		err := unix.Mount("/dev/null", proc+"/"+f, "", unix.MS_BIND, "")
		if err != nil && err != unix.ENOENT {
			return fmt.Errorf("hide /proc/%s: %w", f, err)
		}
	}
	for _, d := range []string{"sys", "irq", "bus", "fs"} {
		p := proc + "/" + d
		if err := unix.Mount(p, p, "", unix.MS_BIND|unix.MS_REC, ""); err == unix.ENOENT {
			continue
		} else if err != nil {
			return fmt.Errorf("bind /proc/%s: %w", d, err)
		}
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, p, unix.AT_RECURSIVE, &attr); err != nil {
			return fmt.Errorf("make /proc/%s read-only: %w", d, err)
		}
	}
	return nil
}

func enterRoot(s Setup) error {
	if err := unix.Chdir(base); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &attr); err != nil {
		return fmt.Errorf("make / read-only: %w", err)
	}
	if err := unix.Sethostname([]byte("sandbox")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return unix.Chdir("/workspace")
}

func loopback(s Setup) error {
	if s.Without.Has(layers.Network) {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

func limit(s Setup) error {
	if err := confine.LimitProcesses(s.PIDs); err != nil {
		return err
	}
	if s.OpenFiles == 0 {
		return nil
	}
	v := uint64(s.OpenFiles)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: v, Max: v}); err != nil {
		return fmt.Errorf("set the limit of open files to %d: %w", v, err)
	}
	return nil
}

// bequeathNone empties the bounding and the inheritable set of this thread, and with
// that the ambient one: what it starts has no capability and can get none, whatever a
// program's file says. Stopping all threads once for each of the set would take longer
// than the rest.
func bequeathNone(Setup) error {
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL && c > unix.CAP_LAST_CAP {
			break // the kernel knows no more
		} else if err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var held [2]unix.CapUserData
	if err := unix.Capget(&hdr, &held[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	held[0].Inheritable, held[1].Inheritable = 0, 0
	if err := unix.Capset(&hdr, &held[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// mountProc shows the processes of the sandbox, in a place that nobody else sees.
func mountProc(s Setup) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if s.Without.Has(layers.PID) {
		return nil
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc (a container that hides parts of its own /proc forbids this): %w", err)
	}
	return nil
}

// takeOn makes all threads of the ids that the namespace has, which the worker has
// mapped by now, and drops the worker's groups if that can be. Package psx finds the
// threads in /proc.
func takeOn(s Setup) error {
	if s.Groups {
		if _, _, errno := psx.Syscall3(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
			return fmt.Errorf("drop groups: %w", errno)
		}
	}
	if _, _, errno := psx.Syscall3(unix.SYS_SETRESGID, UID, UID, UID); errno != 0 {
		return fmt.Errorf("take on the group id: %w", errno)
	}
	if _, _, errno := psx.Syscall3(unix.SYS_SETRESUID, UID, UID, UID); errno != 0 {
		return fmt.Errorf("take on the user id: %w", errno)
	}
	return nil
}

// executable finds out whether shims can be started, which the worker's id does not tell.
func executable(Setup) error {
	return unix.Access(confine.Self, unix.X_OK)
}

// drop gives up all capabilities on all threads.
func drop(Setup) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if _, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0); errno != 0 {
		return fmt.Errorf("capset: %w", errno)
	}
	return nil
}
