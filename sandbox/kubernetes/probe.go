package kubernetes

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
	"github.com/stepward/stepward/sandbox"
)

// found is what the cluster can do, as seen inside a pod.
type found struct {
	can    sandbox.Capabilities
	userns bool // is to be asked for
}

// Probe checks the worker's rights, makes a sandbox, looks inside at what holds
// there, and destroys it.
func (b *Backend) Probe(ctx context.Context) (sandbox.Capabilities, error) {
	c, err := b.connect(ctx)
	if err != nil {
		return sandbox.Capabilities{}, err
	}
	if err := c.checkRights(ctx); err != nil {
		return sandbox.Capabilities{}, err
	}
	f, err := b.findings(ctx)
	return f.can, err
}

// findings probes if nobody did. A probe takes seconds: who comes meanwhile waits
// for it.
func (b *Backend) findings(ctx context.Context) (found, error) {
	b.probing.Lock()
	defer b.probing.Unlock()
	if b.found != nil {
		return *b.found, nil
	}
	f, err := b.probe(ctx, true)
	if errors.Is(err, errNoUserNS) {
		f, err = b.probe(ctx, false)
	}
	if err == nil {
		b.found = &f
	}
	return f, err
}

// Limits of the sandbox that is made to be looked at.
const (
	probeMemory = 64 << 20
	probeCPU    = 0.5
	probeDisk   = 1 << 20
)

func (b *Backend) probe(ctx context.Context, userns bool) (found, error) {
	c, err := b.connect(ctx)
	if err != nil {
		return found{}, err
	}
	token := make([]byte, 32)
	rand.Read(token)
	s := sandbox.Creation{ID: fmt.Sprintf("probe-%x", token[:8]), TokenHash: sha256.Sum256(token), OrphanAfter: 15 * time.Second}
	limits := sandbox.Limits{Memory: probeMemory, CPU: probeCPU, Disk: probeDisk, OpenFiles: DefaultOpenFiles}
	if _, err := b.start(layers.Without(ctx, 0), c, found{userns: userns}, limits, s); err != nil {
		return found{}, err
	}
	can, err := b.look(ctx, s.ID, token)
	if derr := b.Destroy(context.WithoutCancel(ctx), s.ID); err == nil {
		err = derr
	}
	if err != nil {
		return found{}, err
	}
	can.PIDs = b.config.RuntimeClass == ""
	return found{can: can, userns: userns && can.UserNS}, nil
}

// hello connects, and says so.
func (b *Backend) hello(ctx context.Context, id string, token []byte) (rpcconnect.RunnerClient, net.Conn, *rpc.HelloResponse, error) {
	conn, err := b.Dial(ctx, id)
	if err != nil {
		return nil, nil, nil, err
	}
	run := rpcconnect.NewRunnerClient(rpc.Transport(conn), rpc.BaseURL, rpc.ClientOptions()...)
	hello, err := run.Hello(ctx, connect.NewRequest(&rpc.HelloRequest{Token: token}))
	if err != nil {
		conn.Close()
		return nil, nil, nil, unavailable("the tool runner does not answer", err)
	}
	return run, conn, hello.Msg, nil
}

// look asks the tool runner, and reads what the kernel says inside of the pod.
func (b *Backend) look(ctx context.Context, id string, token []byte) (can sandbox.Capabilities, err error) {
	run, conn, hello, err := b.hello(ctx, id, token)
	if err != nil {
		return can, err
	}
	defer conn.Close()
	if !hello.NoNewPrivs || hello.Capabilities {
		return can, unavailable(fmt.Sprintf("the node does not take away privileges: no_new_privs is %v, capabilities are held: %v",
			hello.NoNewPrivs, hello.Capabilities), nil)
	}
	read := func(paths ...string) string {
		for _, path := range paths {
			if text, err := readFile(ctx, run, path); err == nil {
				return text
			}
		}
		return ""
	}
	isolation := "container"
	if b.config.RuntimeClass != "" {
		isolation = "container (" + b.config.RuntimeClass + ")"
	}
	return sandbox.Capabilities{
		Isolation: isolation, Images: true, Persistent: true, Live: true, OpenFiles: true, Egress: true,
		Landlock: int(hello.Landlock), Seccomp: hello.Seccomp,
		UserNS: mapsIDs(read("/proc/self/uid_map")),
		Memory: holdsMemory(read("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")),
		CPU:    holdsCPU(read("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us")),
		Disk:   holdsDisk(read("/proc/self/mounts")),
	}, nil
}

func readFile(ctx context.Context, run rpcconnect.RunnerClient, path string) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	down, err := run.ReadFile(ctx, connect.NewRequest(&rpc.ReadFileRequest{Path: path, Limit: 64 << 10}))
	if err != nil {
		return "", err
	}
	defer func() { _ = down.Close() }()
	var text strings.Builder
	for down.Receive() {
		text.Write(down.Msg().Data)
	}
	return text.String(), down.Err()
}

// mapsIDs reports whether a uid_map gives ids of its own.
func mapsIDs(text string) bool {
	f := strings.Fields(text)
	return len(f) >= 3 && (len(f) > 3 || f[0] != f[1])
}

// holdsMemory reports whether the limit of memory is the one that was asked for.
func holdsMemory(text string) bool {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	return err == nil && n == probeMemory
}

// holdsCPU reports whether there is a quota of CPU time, that may be rounded.
func holdsCPU(text string) bool {
	f := strings.Fields(text)
	if len(f) == 0 {
		return false
	}
	n, err := strconv.ParseInt(f[0], 10, 64)
	return err == nil && n > 0
}

var tmpfsSize = regexp.MustCompile(`(?m)^\S+ (/workspace|/tmp) tmpfs \S*\bsize=1024k\b`)

// holdsDisk reports whether /workspace and /tmp have the size that was asked for.
func holdsDisk(mounts string) bool { return len(tmpfsSize.FindAllString(mounts, -1)) == 2 }
