package brokerlink

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/rpc"
)

// launcher is the way to the process that starts brokers under a user of their own; nil: there is
// none.
var launcher atomic.Pointer[net.UnixConn]

// CanSeparate reports whether this process may change its user.
func CanSeparate() bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	const need = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
	return unix.Capget(&h, &data[0]) == nil && data[0].Effective&need == need
}

// Separate leaves a process behind that starts brokers as their user, and has this one go on as
// the worker's, for good.
func Separate(worker, broker User) error {
	as, err := json.Marshal(broker)
	if err != nil {
		return err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs := os.NewFile(uintptr(fds[1]), "worker")
	defer theirs.Close()
	conn, err := unixConn(fds[0])
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envLauncher+"="+string(as))
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as for a broker
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start what starts brokers: %w", err)
	}
	go cmd.Wait()
	if err := worker.become(); err != nil {
		return err
	}
	launcher.Store(conn)
	return nil
}

// become changes the user of this process, and leaves no way back.
func (u User) become() error {
	for _, err := range []error{syscall.Setgroups([]int{}), syscall.Setresgid(u.GID, u.GID, u.GID), syscall.Setresuid(u.UID, u.UID, u.UID)} {
		if err != nil {
			return fmt.Errorf("become user %d: %w", u.UID, err)
		}
	}
	if err := syscall.Setuid(0); err == nil || CanSeparate() {
		return fmt.Errorf("become user %d: this process could still be root", u.UID)
	}
	// The kernel has made it unreadable for its own user, and so unable to set up what it starts.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return err
	}
	for _, name := range xdg {
		os.Unsetenv(name)
	}
	return os.Setenv("HOME", u.Home)
}

// xdg have the places of the user that a process was.
var xdg = []string{"XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"}

func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// pin tells the launcher which database brokers are for. It takes the first that it hears of,
// which is before any run was claimed: a worker that is taken over later cannot name another.
func pin(setup Setup) {
	if l := launcher.Load(); l != nil {
		if b, err := json.Marshal(setup); err == nil {
			_, _ = l.Write(b) // a start tells what is wrong
		}
	}
}

// separated reports whether brokers have a user of their own.
func separated() bool { return launcher.Load() != nil }

// launch has the launcher start a broker.
func launch(ctx context.Context, setup Setup, log func(string)) (*child, error) {
	input, err := json.Marshal(setup)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := pair() // by this process: the kernel names its user at the other end
	if err != nil {
		return nil, fmt.Errorf("connect with a broker: %w", err)
	}
	defer theirs.Close()
	control, far, err := pair()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer far.Close()
	says, stderr, err := os.Pipe()
	if err == nil {
		_, _, err = launcher.Load().WriteMsgUnix(input, unix.UnixRights(int(theirs.Fd()), int(far.Fd()), int(stderr.Fd())), nil)
		stderr.Close()
	}
	if err != nil {
		ours.Close()
		control.Close()
		return nil, fmt.Errorf("start the broker: %w", err)
	}
	theirs.Close()
	far.Close()
	c := &child{ended: make(chan struct{}), gone: make(chan struct{}), kill: func() { control.Close() }}
	c.end = sync.OnceFunc(func() { close(c.ended) })
	said, lines := &tail{}, &lineWriter{to: log}
	var told atomic.Pointer[string]
	go func() {
		defer close(c.gone)
		defer control.Close()
		defer says.Close()
		var quiet sync.WaitGroup
		quiet.Go(func() {
			_, _ = io.Copy(io.MultiWriter(said, lines), says)
			lines.flush()
		})
		r := bufio.NewScanner(control)
		for r.Scan() {
			text := r.Text()
			if pid, err := strconv.ParseInt(text, 10, 32); err == nil {
				c.process.Store(pid)
				continue
			}
			told.Store(&text)
			log(text)
		}
		_ = says.SetReadDeadline(time.Now().Add(2 * time.Second)) // what it has started may have it open
		quiet.Wait()
	}()
	if err := c.awaits(ctx, ours); err != nil {
		ours.Close()
		c.stop()
		if text := told.Load(); text != nil {
			err = errors.New(*text)
		}
		return nil, fmt.Errorf("%w%s", err, said.text())
	}
	c.conn = rpc.Watch(ours, c.end)
	return c, nil
}

// Launching reports whether this process was left behind to start brokers.
func Launching() bool { return os.Getenv(envLauncher) != "" }

// Launch starts brokers until the worker has gone.
func Launch() error {
	var as User
	err := json.Unmarshal([]byte(os.Getenv(envLauncher)), &as)
	os.Unsetenv(envLauncher)
	if err != nil {
		return err
	}
	conn, err := unixConn(childFD)
	if err != nil {
		return err
	}
	l := &launching{as: as}
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(16*4))
	for {
		n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
		switch {
		case errors.Is(err, io.EOF) || err == nil && n == 0:
			return nil // it has gone
		case err != nil:
			return err
		}
		l.take(buf[:n], oob[:oobn], flags)
	}
}

// launching is what the launcher knows.
type launching struct {
	as    User
	setup []byte // that brokers are for
}

// take takes one message: a setup, and with it the ends of a broker's connections if one is to start.
func (l *launching) take(setup, rights []byte, flags int) {
	var files []*os.File
	if all, err := unix.ParseSocketControlMessage(rights); err == nil {
		for _, m := range all {
			fds, _ := unix.ParseUnixRights(&m)
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				files = append(files, os.NewFile(uintptr(fd), "of a broker"))
			}
		}
	}
	if flags&unix.MSG_TRUNC == 0 && l.setup == nil {
		l.setup = append(l.setup, setup...)
	}
	if len(files) == 3 {
		same := flags&unix.MSG_TRUNC == 0 && string(setup) == string(l.setup)
		go l.start(files[0], files[1], files[2], same)
		return
	}
	for _, f := range files {
		f.Close()
	}
}

// start starts a broker, and ends it when the worker says so. control is told how it does.
func (l *launching) start(conn, far, stderr *os.File, same bool) {
	defer conn.Close()
	defer stderr.Close()
	control, err := net.FileConn(far)
	far.Close()
	if err != nil {
		return
	}
	defer control.Close()
	tell := func(text string) { _, _ = io.WriteString(control, strings.ReplaceAll(text, "\n", " ")+"\n") }
	if !same {
		tell("brokers under their own user serve the database that was first named in this process, and no other: see bootstrap.Config.User")
		return
	}
	l.as.settle()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = os.Environ()
	for _, name := range xdg {
		cmd.Env = append(cmd.Env, name+"=")
	}
	cmd.Env = append(cmd.Env, EnvBroker+"=1", "HOME="+l.as.Home)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stderr, cmd.ExtraFiles = strings.NewReader(string(l.setup)), stderr, []*os.File{conn}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: uint32(l.as.UID), Gid: uint32(l.as.GID)}}
	if err := cmd.Start(); err != nil {
		tell("start the broker as user " + fmt.Sprint(l.as.UID) + ": " + err.Error())
		return
	}
	conn.Close()
	stderr.Close()
	tell(strconv.Itoa(cmd.Process.Pid))
	go func() {
		_, _ = control.Read(make([]byte, 1)) // until its other end has gone
		_ = cmd.Process.Kill()
	}()
	if err := cmd.Wait(); err != nil {
		tell(err.Error())
	}
}

// settle makes the user's home if it has none. Without, the broker says what it lacks.
func (u User) settle() {
	if err := os.MkdirAll(u.Home, 0o755); err != nil {
		return
	}
	info, err := os.Lstat(u.Home)
	if err != nil || !info.IsDir() || info.Sys().(*syscall.Stat_t).Uid != 0 || u.UID == 0 || !strings.HasPrefix(u.Home, homes+"/") {
		return
	}
	_ = os.Chmod(u.Home, 0o700)
	_ = os.Lchown(u.Home, u.UID, u.GID)
}
