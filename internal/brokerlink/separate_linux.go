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
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/rpc"
)

// launcher is the way to the process that starts brokers under a user of their own. What it does
// for this process is settled once: a worker that is taken over later changes nothing.
var launcher struct {
	mu      sync.Mutex
	conn    *net.UnixConn // nil: there is none, or not any more
	settled bool          // by Pin or Release
	left    bool          // this process was root, and is not
}

const changesUser = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID

// held returns which rights to change its user this thread has, and which of them it may take.
func held() (effective, permitted uint32) {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&h, &data[0]); err != nil {
		return 0, 0
	}
	return data[0].Effective & changesUser, data[0].Permitted & changesUser
}

// CanSeparate reports whether this process may change its user.
func CanSeparate() bool {
	effective, _ := held()
	return effective == changesUser
}

// Hindered returns why this process cannot become one of the users, or start what does: it is in a user
// namespace without them. Empty: it can.
func Hindered(users ...User) string {
	if b, err := os.ReadFile("/proc/self/setgroups"); err == nil && strings.TrimSpace(string(b)) == "deny" {
		return "its user namespace has no setgroups"
	}
	for _, u := range users {
		if !mapped("/proc/self/uid_map", u.UID) {
			return fmt.Sprintf("its user namespace has no user %d", u.UID)
		}
		if !mapped("/proc/self/gid_map", u.GID) {
			return fmt.Sprintf("its user namespace has no group %d", u.GID)
		}
	}
	return ""
}

// mapped reports whether a map of a user namespace has an id. A kernel without maps has all.
func mapped(path string, id int) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(b)) {
		var first, outside, n int64
		if _, err := fmt.Sscan(line, &first, &outside, &n); err == nil && first <= int64(id) && int64(id)-first < n {
			return true
		}
	}
	return false
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
	worker.settle()
	if err := worker.become(); err != nil {
		return err
	}
	launcher.mu.Lock()
	defer launcher.mu.Unlock()
	launcher.conn, launcher.left = conn, true
	return nil
}

// become changes the user of this process, and leaves no way back.
func (u User) become() error {
	for _, err := range []error{syscall.Setgroups([]int{}), syscall.Setresgid(u.GID, u.GID, u.GID), syscall.Setresuid(u.UID, u.UID, u.UID)} {
		if err != nil {
			return fmt.Errorf("become user %d: %w", u.UID, err)
		}
	}
	effective, permitted := held()
	if err := syscall.Setuid(0); err == nil || effective|permitted != 0 {
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

// Pin tells the launcher which database brokers are for, before any run is claimed. It starts none before,
// and none for another: the first counts.
func Pin(setup Setup) {
	launcher.mu.Lock()
	defer launcher.mu.Unlock()
	if launcher.conn == nil || launcher.settled {
		return
	}
	launcher.settled = true
	if b, err := json.Marshal(setup); err == nil {
		_, _ = launcher.conn.Write(b) // a start tells what is wrong
	}
}

// Release ends the launcher unless there is a database that brokers are for: this process needs none.
func Release() {
	launcher.mu.Lock()
	defer launcher.mu.Unlock()
	if launcher.conn == nil || launcher.settled {
		return
	}
	launcher.settled = true
	_ = launcher.conn.Close()
	launcher.conn = nil
}

// LeftRoot reports whether this process was root, and has given that up.
func LeftRoot() bool {
	launcher.mu.Lock()
	defer launcher.mu.Unlock()
	return launcher.left
}

// launching returns the way to the launcher.
func launching() (*net.UnixConn, error) {
	launcher.mu.Lock()
	defer launcher.mu.Unlock()
	if launcher.conn == nil {
		return nil, errors.New("a worker of this program was the first to run, and has another in worker.Config.Broker: what starts brokers under their own user has ended")
	}
	return launcher.conn, nil
}

// launch has the launcher start a broker.
func launch(ctx context.Context, setup Setup, log func(string)) (*child, error) {
	way, err := launching()
	if err != nil {
		return nil, err
	}
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
		_, _, err = way.WriteMsgUnix(input, unix.UnixRights(int(theirs.Fd()), int(far.Fd()), int(stderr.Fd())), nil)
		stderr.Close()
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			err = ErrLauncher
		}
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
	said := &tail{}
	lines := said.lines(setup, log)
	var told atomic.Pointer[string]
	go func() {
		defer close(c.gone)
		defer control.Close()
		defer says.Close()
		var quiet sync.WaitGroup
		quiet.Go(func() {
			_, _ = io.Copy(lines, says)
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
		switch text := told.Load(); {
		case text != nil && c.pid() == 0:
			err = errors.New(*text)
		case text != nil && errors.Is(err, errEnded):
			err = fmt.Errorf("%w, with %s", err, *text)
		case c.pid() == 0 && ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded):
			err = ErrLauncher // it has not come to a start
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
	l := &launches{as: as}
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

// mostBrokers is how many brokers a launcher has at a time. Each worker of the program has one, and one more
// that ends.
const mostBrokers = 8

// launches is what the launcher knows.
type launches struct {
	as    User
	setup []byte // that brokers are for; nil: not known yet
	has   atomic.Int32
}

// take takes one message: the setup that brokers are for, or one with the ends of the connections of a broker
// that is to start.
func (l *launches) take(setup, rights []byte, flags int) {
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
	whole := flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0
	if whole && l.setup == nil && len(files) == 0 {
		l.setup = append(l.setup, setup...)
	}
	if len(files) == 3 {
		refusal := ""
		switch {
		case l.setup == nil:
			refusal = "brokers under their own user start when worker.Run has reached its database, and not before"
		case !whole || string(setup) != string(l.setup):
			refusal = "brokers under their own user serve the database that a worker first named in this process, and no other: see bootstrap.Config.User"
		case l.has.Load() >= mostBrokers:
			refusal = fmt.Sprintf("this program has %d brokers, and may have no more at a time", mostBrokers)
		}
		if refusal == "" {
			l.has.Add(1)
		}
		go l.start(files[0], files[1], files[2], refusal)
		return
	}
	for _, f := range files {
		f.Close()
	}
}

// start starts a broker, and ends it when the worker says so. control is told how it does, or why it does not.
func (l *launches) start(conn, far, stderr *os.File, refusal string) {
	defer conn.Close()
	defer stderr.Close()
	if refusal == "" {
		defer l.has.Add(-1)
	}
	control, err := net.FileConn(far)
	far.Close()
	if err != nil {
		return
	}
	defer control.Close()
	tell := func(text string) { _, _ = io.WriteString(control, strings.ReplaceAll(text, "\n", " ")+"\n") }
	if refusal != "" {
		tell(refusal)
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

// settle makes the user's home if it is one of those without a name. Without, the user says what it lacks.
func (u User) settle() {
	if u.UID == 0 || filepath.Dir(filepath.Clean(u.Home)) != homes || os.MkdirAll(u.Home, 0o755) != nil {
		return
	}
	fd, err := unix.Open(u.Home, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil || info.Uid != 0 {
		return
	}
	_ = unix.Fchmod(fd, 0o700)
	_ = unix.Fchown(fd, u.UID, u.GID)
}
