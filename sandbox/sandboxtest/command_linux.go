package sandboxtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command is what the program does as a command in a sandbox. A probe prints
// "yes" when it got what it must not get, or why it did not.
func command(verb string, args []string) int {
	switch verb {
	case "out": // code, stdout, stderr
		fmt.Fprint(os.Stdout, args[1])
		fmt.Fprint(os.Stderr, args[2])
		code, _ := strconv.Atoi(args[0])
		return code
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "getenv": // a variable, and what is in the file that another names, by their hashes
		fmt.Print(hashed([]byte(os.Getenv(args[0]))))
		if len(args) > 1 {
			fmt.Print(" " + secretFile(os.Getenv(args[1])))
		}
	case "link":
		if err := os.Symlink(args[0], args[1]); err != nil {
			fmt.Print(err)
			return 1
		}
	case "answer": // what is typed, line by line, after its own id
		fmt.Println(inProc())
		io.Copy(os.Stdout, os.Stdin)
	case "hold-secret": // a variable, which it says that it has
		fmt.Print(os.Getenv(args[0]) != "")
		for {
			time.Sleep(time.Hour)
		}
	case "env":
		fmt.Print(strings.Join(os.Environ(), "\n"))
	case "pwd":
		d, _ := os.Getwd()
		fmt.Print(d)
	case "terminal": // its size now and whenever that changes, and what is typed, to the end
		resized := make(chan os.Signal, 1)
		signal.Notify(resized, syscall.SIGWINCH)
		size := func() {
			w, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ)
			if err != nil {
				fmt.Println(err)
				return
			}
			tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
			fmt.Printf("%dx%d %s %v\n", w.Row, w.Col, os.Getenv("TERM"), err)
			tty.Close()
		}
		size()
		go func() {
			for range resized {
				size()
			}
		}()
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			fmt.Printf("<%s>\n", in.Text())
		}
		fmt.Println("the end")
	case "trap": // a signal, sent to a child
		if len(args) == 0 {
			c := exec.Command("/proc/self/exe", verbPrefix+"trap", "child")
			c.Stdout = os.Stdout
			signal.Ignore(syscall.SIGUSR1)
			if err := c.Run(); err != nil {
				fmt.Println(err)
			}
			return 4
		}
		got := make(chan os.Signal, 1)
		signal.Notify(got, syscall.SIGUSR1)
		fmt.Println("ready")
		fmt.Println((<-got).(syscall.Signal))
	case "tally": // lines to print before a pipe's other end opens, and as many after; it says in a file that it began
		n, _ := strconv.Atoi(args[0])
		f, err := os.OpenFile(args[2], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(f, "begun")
		}
		if err = errors.Join(err, unix.Mkfifo(args[1], 0o600)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for i := range 2 * n {
			if i == n {
				pass(args[1], os.O_RDONLY)
			}
			fmt.Println(i + 1)
		}
	case "pass":
		pass(args[0], os.O_WRONLY)
	case "numbers":
		n, _ := strconv.Atoi(args[0])
		w := bufio.NewWriterSize(os.Stdout, 1<<16)
		for i := range n {
			fmt.Fprintln(w, i+1)
		}
		w.Flush()
	case "print": // bytes
		n, _ := strconv.ParseInt(args[0], 10, 64)
		for buf := make([]byte, 1<<16); n > 0; {
			k, err := os.Stdout.Write(buf[:min(n, int64(len(buf)))])
			if err != nil {
				return 1
			}
			n -= int64(k)
		}
	case "fill": // a file, until there is no room
		f, err := os.Create(args[0])
		for buf := make([]byte, 1<<16); err == nil; {
			_, err = f.Write(buf)
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	case "tree": // of a kind that a reader has to be careful with
		if err := tree(args[0], args[1], args[2:]...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "remove":
		if err := os.RemoveAll(args[0]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "open": // files, until there may be no more
		for n := 0; ; n++ {
			if _, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0); err != nil {
				fmt.Fprintf(os.Stderr, "after %d: %v\n", n, err)
				return 1
			}
		}
	case "use": // time of processors, and bytes of memory, in a child
		d, _ := time.ParseDuration(args[0])
		n, _ := strconv.Atoi(args[1])
		if len(args) == 2 {
			c := exec.Command("/proc/self/exe", verbPrefix+"use", args[0], args[1], "child")
			if err := c.Run(); err != nil {
				fmt.Println(err)
				return 1
			}
			return 0
		}
		memory := bytes.Repeat([]byte("x"), n)
		var used unix.Rusage
		for time.Duration(used.Utime.Nano()+used.Stime.Nano()) < d {
			_ = unix.Getrusage(unix.RUSAGE_SELF, &used)
		}
		fmt.Println(len(memory))
	case "flood":
		line := bytes.Repeat([]byte("x"), 1<<16)
		for {
			if _, err := os.Stdout.Write(line); err != nil {
				return 1
			}
		}
	case "hang":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		fmt.Println("hanging")
		for {
			time.Sleep(time.Hour)
		}
	case "daemons": // n daemons, each in a session of its own, whose parents are gone
		n, _ := strconv.Atoi(args[0])
		for range n {
			c := exec.Command("/proc/self/exe", verbPrefix+"daemon")
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := c.Run(); err != nil {
				fmt.Println(err)
			}
		}
		fmt.Println("started")
		if len(args) > 1 {
			for { // not select{}: a Go program that waits for nothing ends itself
				time.Sleep(time.Hour)
			}
		}
	case "daemon":
		c := exec.Command("/proc/self/exe", verbPrefix+"hang", "daemon")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
	case "bomb": // as many processes as there may be, each of which makes more
		signal.Ignore(syscall.SIGTERM)
		start := func() error {
			c := exec.Command("/proc/self/exe", verbPrefix+"bomb", "more")
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			c.Stdout = os.Stdout
			return c.Start()
		}
		if len(args) == 0 { // the command itself makes one only: a Go program that gets no thread ends itself
			if err := start(); err != nil {
				fmt.Println(err)
				return 1
			}
			for {
				time.Sleep(time.Hour)
			}
		}
		for {
			if start() != nil {
				fmt.Println("no more can be started")
				time.Sleep(time.Millisecond)
			}
		}
	case "count": // processes with an argument
		fmt.Print(len(processesWith(args[0])))
	case "signal": // the runner and all else that is not this process's own
		err := errors.Join(syscall.Kill(1, syscall.SIGKILL), syscall.Kill(1, syscall.SIGTERM))
		report(err)
	default:
		if !wire(verb, args) && !direct(verb, args) && !escape(verb, args) {
			report(try(verb, args))
		}
	}
	return 0
}

// pass waits until somebody opens the other end of a named pipe.
func pass(path string, flag int) {
	if f, err := os.OpenFile(path, flag, 0); err == nil {
		f.Close()
	}
}

// inProc is the id of this process as /proc has it, which may be another
// namespace's than the process is in.
func inProc() string {
	id, err := os.Readlink("/proc/self")
	if err != nil {
		return strconv.Itoa(os.Getpid())
	}
	return id
}

func report(err error) {
	if err == nil {
		fmt.Print("yes")
		return
	}
	fmt.Print(err)
}

// try does what must not be possible.
func try(verb string, args []string) error {
	switch verb {
	case "connect":
		c, err := net.DialTimeout("tcp", args[0], 3*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	case "process":
		if len(processesWith(args[0])) > 0 {
			return nil
		}
		return fmt.Errorf("no process has %s", args[0])
	case "stat":
		_, err := os.Stat(args[0])
		return err
	case "read":
		_, err := os.ReadFile(args[0])
		return err
	case "write":
		err := os.WriteFile(args[0], []byte("x"), 0o600)
		if err == nil {
			os.Remove(args[0])
		}
		return err
	case "litter": // a directory that cannot be removed as it is
		err := os.MkdirAll(args[0], 0o700)
		if err == nil {
			err = os.WriteFile(args[0]+"/file", []byte("x"), 0)
		}
		return errors.Join(err, os.Chmod(args[0], 0), os.Chmod(filepath.Dir(args[0]), 0))
	case "environ": // of any process but this one
		dir, _ := os.ReadDir("/proc")
		for _, d := range dir {
			if d.Name() == inProc() || d.Name() == "self" || d.Name() == "thread-self" {
				continue
			}
			raw, _ := os.ReadFile("/proc/" + d.Name() + "/environ")
			if bytes.Contains(raw, []byte(args[0])) {
				return nil
			}
		}
		return fmt.Errorf("no environment has %s", args[0])
	case "search": // all that can be had of other processes
		return search(args[0])
	case "vsock": // to the host of a virtual machine; a network namespace does not hold it back
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	case "keyring":
		_, err := unix.AddKey("user", "stepward-probe", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
		return err
	case "userns":
		c := exec.Command("/proc/self/exe", verbPrefix+"out", "0", "", "")
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
		return c.Run()
	case "vmread":
		local := make([]byte, 1)
		src := []byte{1}
		_, err := unix.ProcessVMReadv(os.Getpid(), []unix.Iovec{{Base: &local[0], Len: 1}},
			[]unix.RemoteIovec{{Base: addr(src), Len: 1}}, 0)
		return err
	case "capabilities": // held, or to be had by executing a file; but for a set that is named
		raw, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return nil //nolint:nilerr // then nothing is shown
		}
		sets := 0
		for _, line := range strings.Split(string(raw), "\n") {
			if set, ok := strings.CutPrefix(line, "Cap"); ok && (len(args) == 0 || !strings.HasPrefix(set, args[0])) {
				sets++
				if strings.Trim(set[len("Bnd:"):], "\t 0") != "" {
					return nil
				}
			}
		}
		return fmt.Errorf("all %d sets are empty", sets)
	case "mount":
		return unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "")
	case "setuid":
		return syscall.Setuid(0)
	}
	return fmt.Errorf("no probe %s", verb)
}

// processesWith returns the ids of all processes but this with an argument.
func processesWith(arg string) (out []string) {
	dir, _ := os.ReadDir("/proc")
	for _, d := range dir {
		if d.Name() == inProc() || d.Name() == "self" || d.Name() == "thread-self" {
			continue
		}
		raw, _ := os.ReadFile("/proc/" + d.Name() + "/cmdline")
		for _, a := range bytes.Split(raw, []byte{0}) {
			if string(a) == arg {
				out = append(out, d.Name())
			}
		}
	}
	return out
}
