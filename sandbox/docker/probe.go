package docker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
	"github.com/stepward/stepward/sandbox"
)

// found is what a tool runner found out inside a container.
type found struct {
	landlock int
	seccomp  bool
	redirect bool // of programs that know of no proxy
}

// Probe makes a sandbox, asks its tool runner what holds there, and destroys it.
func (b *Backend) Probe(ctx context.Context) (sandbox.Capabilities, error) {
	f, err := b.probe(ctx)
	if err != nil {
		return sandbox.Capabilities{}, err
	}
	_, e, err := b.connect(ctx)
	if err != nil {
		return sandbox.Capabilities{}, err
	}
	return sandbox.Capabilities{
		Isolation: e.isolation(), Images: true, UserNS: e.userns, Landlock: f.landlock, Seccomp: f.seccomp,
		Memory: e.MemoryLimit, CPU: e.CPUCfsQuota, PIDs: e.PidsLimit, Disk: true, OpenFiles: true, Egress: true, Persistent: true, Live: true,
		Transparent: f.redirect,
	}, nil
}

// findings probes if nobody did.
func (b *Backend) findings(ctx context.Context) (found, error) {
	b.mu.Lock()
	f := b.found
	b.mu.Unlock()
	if f != nil {
		return *f, nil
	}
	return b.probe(ctx)
}

func (b *Backend) probe(ctx context.Context) (found, error) {
	token := make([]byte, 32)
	rand.Read(token)
	id := fmt.Sprintf("probe-%x", token[:8])
	c := sandbox.Creation{ID: id, TokenHash: sha256.Sum256(token), OrphanAfter: 15 * time.Second}
	if _, err := b.create(layers.Without(ctx, 0), c, found{}); err != nil {
		return found{}, err
	}
	asking, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	f, err := b.ask(asking, id, token)
	undoing, cancel := b.undoing(ctx)
	defer cancel()
	if derr := b.Destroy(undoing, id); err == nil {
		err = derr
	}
	if err != nil {
		return found{}, err
	}
	b.mu.Lock()
	b.found = &f
	b.mu.Unlock()
	return f, nil
}

func (b *Backend) ask(ctx context.Context, id string, token []byte) (found, error) {
	conn, err := b.Dial(ctx, id)
	if err != nil {
		return found{}, err
	}
	defer conn.Close()
	hello, err := rpcconnect.NewRunnerClient(rpc.Transport(conn), rpc.BaseURL, rpc.ClientOptions()...).
		Hello(ctx, connect.NewRequest(&rpc.HelloRequest{Token: token}))
	if err != nil {
		return found{}, unavailable("the tool runner does not answer", err)
	}
	if !hello.Msg.NoNewPrivs || hello.Msg.Capabilities {
		return found{}, unavailable(fmt.Sprintf("the engine does not take away privileges: no_new_privs is %v, capabilities are held: %v",
			hello.Msg.NoNewPrivs, hello.Msg.Capabilities), nil)
	}
	return found{landlock: int(hello.Msg.Landlock), seccomp: hello.Msg.Seccomp, redirect: hello.Msg.Transparent}, nil
}
