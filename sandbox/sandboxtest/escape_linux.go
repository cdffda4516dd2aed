package sandboxtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// escape is a probe that looks for several things. It prints as JSON what it tried
// to no avail, and why: "yes" where it got through.
func escape(verb string, args []string) (known bool) {
	found := map[string]string{}
	add := func(what string, err error) {
		found[what] = "yes"
		if err != nil {
			found[what] = err.Error()
		}
	}
	switch verb {
	case "syscalls", "sockets":
		list := []map[string]func() error{families}
		if verb == "syscalls" {
			list = []map[string]func() error{deep, otherTables}
		}
		if len(args) > 0 { // one of them, in a process of its own: a filter may end it
			for _, l := range list {
				if do, ok := l[args[0]]; ok {
					report(do())
				}
			}
			return true
		}
		for _, l := range list {
			for name := range l {
				out, err := exec.Command("/proc/self/exe", verbPrefix+verb, name).Output()
				found[name] = string(out)
				if err != nil {
					found[name] = err.Error()
				}
			}
		}
	case "writable": // files below a directory that can be opened to write, and directories that take one
		_ = filepath.WalkDir(args[0], func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return fs.SkipDir
			case d.IsDir() && isProcess(path):
				return fs.SkipDir
			case d.IsDir():
				if dir := filepath.Join(path, "stepward-probe"); os.Mkdir(dir, 0o755) == nil {
					os.Remove(dir)
					add(path, nil)
				}
			case d.Type().IsRegular():
				if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
					var st unix.Stat_t
					if unix.Fstat(fd, &st); st.Mode&unix.S_IFMT == unix.S_IFREG { // not /dev/null in its place
						add(path, nil)
					}
					unix.Close(fd)
				}
			}
			return nil
		})
	case "kernel": // what tells of the kernel and of the host
		for _, path := range args {
			add(path, holds(path))
		}
	case "devices": // that can be opened, but for those that a program needs, or made
		_ = filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Type()&fs.ModeDevice == 0 {
				return nil //nolint:nilerr // what cannot be listed cannot be opened by its name
			}
			if slices.Contains([]string{"null", "zero", "full", "random", "urandom", "tty", "ptmx"}, filepath.Base(path)) {
				return nil
			}
			if len(args) > 0 && slices.Contains(args, filepath.Base(path)) {
				return nil
			}
			for _, flag := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
				fd, err := unix.Open(path, flag|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
				if err == nil {
					unix.Close(fd)
				}
				add(fmt.Sprint(path, " ", flag), err)
			}
			return nil
		})
		for name, dev := range map[string]uint64{"mem": unix.Mkdev(1, 1), "vda": unix.Mkdev(254, 0), "kvm": unix.Mkdev(10, 232)} {
			err := unix.Mknod("/tmp/"+name, unix.S_IFCHR|0o600, int(dev))
			if err == nil && len(args) > 0 {
				var fd int
				if fd, err = unix.Open("/tmp/"+name, unix.O_RDONLY, 0); err == nil {
					unix.Close(fd)
				}
			}
			add("make "+name, err)
			os.Remove("/tmp/" + name)
		}
	case "others": // what /proc tells of other processes, beyond what ps shows
		dir, _ := os.ReadDir("/proc")
		for _, d := range dir {
			if _, err := strconv.Atoi(d.Name()); err != nil || d.Name() == inProc() {
				continue
			}
			at := "/proc/" + d.Name() + "/"
			for _, name := range []string{"environ", "auxv", "maps", "stack", "syscall"} {
				add(at+name, holds(at+name))
			}
			for _, flag := range []int{unix.O_RDONLY, unix.O_RDWR} {
				fd, err := unix.Open(at+"mem", flag|unix.O_CLOEXEC, 0)
				if err == nil {
					unix.Close(fd)
				}
				add(fmt.Sprint(at, "mem ", flag), err)
			}
			for _, name := range []string{"exe", "cwd", "root"} {
				_, err := os.Readlink(at + name)
				add(at+name, err)
			}
			f, err := os.Open(at + "fd/0")
			if err == nil {
				f.Close()
			}
			add(at+"fd/0", err)
		}
	case "tiocsti": // into a terminal: its own, and those of others
		add("own", unix.IoctlSetPointerInt(0, unix.TIOCSTI, 'x'))
		own, _ := os.Readlink("/proc/self/fd/0")
		all, _ := filepath.Glob("/dev/pts/[0-9]*")
		for _, path := range all {
			if path == own {
				continue
			}
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
			}
			add(path, err)
		}
		add("own, by an int", attempt(unix.SYS_IOCTL, 0, unix.TIOCSTI|aboveInt, uintptr(unsafe.Pointer(&[]byte("x")[0]))))
	case "turns": // at processors, as often as the runner
		own, err := niceness("/proc/self/stat")
		runner, rerr := niceness("/proc/1/stat")
		if err = errors.Join(err, rerr); err == nil && own > runner {
			err = fmt.Errorf("the nice value is %d, the runner's %d", own, runner)
		}
		add("turns", err)
	case "settings": // its own, or of others
		of := map[string]int{"runner": 1, "shim": os.Getppid()}
		if len(args) > 0 {
			of = map[string]int{"own": 0}
		} else {
			for name, which := range map[string]uintptr{"setpriority": unix.SYS_SETPRIORITY, "ioprio_set": unix.SYS_IOPRIO_SET} {
				user := map[string]uintptr{"setpriority": unix.PRIO_USER, "ioprio_set": 3}[name]
				add("all: "+name, attempt(which, user, 0, 19))
			}
		}
		for who, pid := range of {
			for call, err := range settings(pid) {
				add(who+": "+call, err)
			}
		}
	case "disarm": // who has to end it, leave daemons, and stay or not
		for range 3 {
			if err := exec.Command("/proc/self/exe", verbPrefix+"daemon").Run(); err != nil {
				fmt.Println(err)
			}
		}
		if args[0] == "limit" {
			report(unix.Prlimit(os.Getppid(), unix.RLIMIT_NOFILE, &unix.Rlimit{}, nil))
		} else {
			report(unix.Kill(os.Getppid(), unix.SIGSTOP))
		}
		for len(args) > 1 {
			time.Sleep(time.Hour)
		}
		return true
	case "descriptors": // that it has from whoever started it
		for fd := 3; fd < 4096; fd++ {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
				add(fmt.Sprint(fd), nil)
			}
		}
	case "unix": // sockets by their addresses
		for _, path := range args {
			c, err := net.DialTimeout("unix", path, 3*time.Second)
			if err == nil {
				c.Close()
			}
			add(path, err)
		}
	case "udp":
		for _, to := range args {
			c, err := net.Dial("udp", to)
			if err == nil {
				_, err = c.Write([]byte("from the sandbox"))
				c.Close()
			}
			add(to, err)
		}
	case "shared": // memory, which it makes
		key, _ := strconv.Atoi(args[0])
		_, err := unix.SysvShmGet(key, 4096, 0o600|unix.IPC_CREAT)
		add(args[0], err)
	case "core":
		var l unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_CORE, &l)
		fmt.Printf("%d %d ", l.Cur, l.Max)
		raw, _ := os.ReadFile("/proc/1/limits")
		for line := range strings.Lines(string(raw)) {
			if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
				fmt.Print(strings.Join(strings.Fields(rest)[:2], " "))
			}
		}
		return true
	case "memory": // that is shared, by its key
		key, _ := strconv.Atoi(args[0])
		_, err := unix.SysvShmGet(key, 4096, 0o600)
		report(err)
		return true
	case "socket":
		c, err := net.DialTimeout("unix", args[0], 3*time.Second)
		if err == nil {
			c.Close()
		}
		report(err)
		return true
	case "listen": // at a name and a port
		for i, network := range []string{"unix", "tcp"} {
			if _, err := net.Listen(network, args[i]); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
		fmt.Println("listening")
		for {
			time.Sleep(time.Hour)
		}
	case "list": // what is in directories
		var all []string
		for _, dir := range args {
			l, _ := filepath.Glob(dir + "/*")
			hidden, _ := filepath.Glob(dir + "/.*")
			all = append(append(all, l...), hidden...)
		}
		fmt.Print(strings.Join(all, " "))
		return true
	case "dead": // processes that nobody has collected
		n := 0
		dir, _ := os.ReadDir("/proc")
		for _, d := range dir {
			raw, _ := os.ReadFile("/proc/" + d.Name() + "/stat")
			if i := bytes.LastIndexByte(raw, ')'); i > 0 && bytes.HasPrefix(raw[i:], []byte(") Z")) {
				n++
			}
		}
		fmt.Print(n)
		return true
	case "crash":
		panic("as it was told")
	case "zombies": // as many as there may be, up to a number
		n, _ := strconv.Atoi(args[0])
		made := 0
		for made < n && dies() == nil {
			made++
		}
		fmt.Println(made)
		for len(args) > 1 {
			time.Sleep(time.Hour)
		}
		return true
	case "hold": // end, while a child has the output
		c := exec.Command("/proc/self/exe", verbPrefix+"hang", "holder")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		report(c.Start())
		return true
	case "files": // empty ones, until there may be no more
		n, _ := strconv.Atoi(args[1])
		for i := range n {
			f, err := os.Create(filepath.Join(args[0], strconv.Itoa(i)))
			if err != nil {
				fmt.Fprintf(os.Stderr, "after %d: %v\n", i, err)
				os.Exit(1)
			}
			f.Close()
		}
		return true
	default:
		return false
	}
	_ = json.NewEncoder(os.Stdout).Encode(found)
	return true
}

// holds fails unless something can be read there: zeros alone, as the addresses of
// the kernel are shown to who may not see them, are nothing.
func holds(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	n, err := f.Read(buf)
	if n == 0 {
		return fmt.Errorf("it is empty: %w", err)
	}
	if slices.Contains([]string{"kallsyms", "iomem", "ioports"}, filepath.Base(path)) {
		for line := range bytes.Lines(buf[:n]) {
			if address, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" ")); len(bytes.Trim(address, "0-")) > 0 {
				return nil
			}
		}
		return errors.New("it has no addresses")
	}
	return nil
}

func isProcess(path string) bool {
	name := strings.TrimPrefix(path, "/proc/")
	_, err := strconv.Atoi(name)
	return err == nil || name == "self" || name == "thread-self"
}

// dies starts a process that ends at once. Nobody waits for it. The child does
// nothing that needs the rest of the program, which it does not have.
//
//go:norace
//go:nosplit
func dies() error {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return nil
}
