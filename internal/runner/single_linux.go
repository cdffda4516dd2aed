package runner

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/rpc"
)

// A Single runs one exec at a time, in a process that something else than a
// worker's connection asks: the function of package sandbox/lambda. What it runs
// finds /tmp as if it were the first, and no network: sockets of any family but
// unix are refused to it.
type Single struct {
	Facts rpc.HelloResponse

	execs *execs
	dir   string
	n     int
}

// NewSingle confines this process and what it starts from here on. What it runs
// has dir, below /tmp, for its working directory. Nothing else may start processes.
func NewSingle(dir string) (*Single, error) {
	if err := confine.Harden(); err != nil {
		return nil, err
	}
	small()
	if err := confine.GiveUp(0); err != nil {
		return nil, err
	}
	if err := keepDescriptors(); err != nil {
		return nil, err
	}
	x := newExecs(config{}, confine.Landlock(), func() []string { return []string{"PWD=" + dir} })
	s := &Single{execs: x, dir: dir, Facts: rpc.HelloResponse{
		Protocol: rpc.Protocol, Landlock: int32(confine.Landlock()), Seccomp: true, NoNewPrivs: true, Capabilities: holdsCapabilities(),
	}}
	closed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // this thread alone, and what it starts, has no network
		err := confine.NoNetwork()
		closed <- err
		if err != nil {
			return
		}
		for start := range x.starts {
			start()
		}
	}()
	if err := <-closed; err != nil {
		return nil, err
	}
	go x.prepare()
	return s, nil
}

// keepDescriptors keeps from commands what this process was given: on AWS, the log of
// the function.
func keepDescriptors() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		if fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// Run runs the exec of a request of package sandbox, and writes its events. When it
// returns nothing of the exec is left running. At the end of ctx it is killed, as
// at the end of its own time; when w fails, too.
func (s *Single) Run(ctx context.Context, request []byte, w io.Writer) error {
	in := bufio.NewReader(bytes.NewReader(request))
	var req rpc.ExecRequest
	if err := (protodelim.UnmarshalOptions{MaxSize: rpc.MaxMessage}).UnmarshalFrom(in, &req); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	input, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	if err := s.clean(); err != nil {
		return err
	}
	s.n++
	req.Id, req.Named, req.Attach, req.Terminal = fmt.Sprint(s.n), false, false, nil
	if req.Dir == "" {
		req.Dir = s.dir
	}
	if deadline, ok := ctx.Deadline(); ok {
		if left := int64(max(time.Until(deadline), 1)); req.TimeoutNs == 0 || left < req.TimeoutNs {
			req.TimeoutNs = left
		}
	}
	e, err := s.execs.get(&req, 0)
	if err != nil {
		return err
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		<-e.ready
		if req.Stdin {
			_, _ = e.input(context.WithoutCancel(ctx), 0, input, true)
		}
	}()
	err = s.execs.follow(context.WithoutCancel(ctx), e, [3]int64{}, func(ev *rpc.ExecEvent) error {
		var b bytes.Buffer
		_, err := protodelim.MarshalTo(&b, ev)
		if err == nil {
			_, err = w.Write(b.Bytes())
		}
		return err
	})
	if err != nil { // nobody reads
		_ = e.kill(context.Background())
		for i := range e.out {
			e.out[i].close()
		}
	}
	<-fed
	return err
}

// tmp is what a command can write to.
const tmp = "/tmp"

// clean empties /tmp, and makes the working directory.
func (s *Single) clean() error {
	err := filepath.WalkDir(tmp, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != tmp {
			return os.Chmod(path, 0o700) // before it is read
		}
		return err
	})
	var entries []fs.DirEntry
	if err == nil {
		entries, err = os.ReadDir(tmp)
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(tmp, e.Name())))
	}
	if err == nil {
		err = os.MkdirAll(s.dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("empty %s: %w", tmp, err)
	}
	return nil
}
