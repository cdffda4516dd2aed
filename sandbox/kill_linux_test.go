package sandbox_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// A slowBackend has connections that can be held up.
type slowBackend struct {
	sandbox.Backend
	mu    sync.Mutex
	conns []*slowConn
	gone  atomic.Bool // no connection can be made
}

func (b *slowBackend) Dial(ctx context.Context, id string) (net.Conn, error) {
	if b.gone.Load() {
		return nil, errors.New("there is no way to it")
	}
	conn, err := b.Backend.Dial(ctx, id)
	if err != nil {
		return nil, err
	}
	c := &slowConn{Conn: conn, writes: make(chan struct{}, 1000)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns = append(b.conns, c)
	return c, nil
}

type slowConn struct {
	net.Conn
	wrote  atomic.Int64
	writes chan struct{} // one for each, before it
	hold   sync.Mutex    // held while nothing is written
}

func (c *slowConn) Write(p []byte) (int, error) {
	select {
	case c.writes <- struct{}{}:
	default:
	}
	c.hold.Lock()
	defer c.hold.Unlock()
	n, err := c.Conn.Write(p)
	c.wrote.Add(int64(n))
	return n, err
}

// A watchedContext tells when somebody waits for its end.
type watchedContext struct {
	context.Context
	once    sync.Once
	watched chan struct{}
}

func (c *watchedContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.watched) })
	return c.Context.Done()
}

// What is to be killed before the sandbox has heard of it does not run on: the two come
// by connections of their own, and the later one may be the faster.
func TestKillOvertakes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := &slowBackend{Backend: local.New(local.Config{Program: sandboxtest.BuildProbe(t)})}
	s, err := sandbox.Start(ctx, b, sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Destroy(context.WithoutCancel(t.Context())) })
	if err := s.Command("true", strings.Repeat("x", 60<<10)).Run(ctx); err != nil {
		t.Fatal(err)
	}
	data, control := b.conns[0], b.conns[1]
	if data.wrote.Load() < control.wrote.Load() {
		data, control = control, data
	}
	data.hold.Lock()
	for len(control.writes) > 0 {
		<-control.writes
	}
	killed, kill := context.WithCancel(ctx)
	kills := make(chan struct{})
	go func() {
		defer close(kills)
		for range 4 { // of which more than one asks for the kill
			select {
			case <-control.writes:
			case <-ctx.Done():
				t.Error("the kill is not asked for again")
				return
			}
		}
	}()
	c, ended := s.Command("sleep", "600"), make(chan error, 1)
	watched := &watchedContext{Context: killed, watched: make(chan struct{})}
	go func() { ended <- c.Run(watched) }()
	testenv.Receive(t, watched.watched) // else it would not be sent at all
	kill()
	<-kills
	data.hold.Unlock()
	select {
	case err = <-ended:
	case <-ctx.Done():
		t.Fatal("it runs on")
	}
	var ee *sandbox.ExitError
	if !errors.As(err, &ee) || ee.Signal != "SIGKILL" || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want an ExitError by SIGKILL that is Canceled", err)
	}
}

// A sandbox in which a command could not be killed is lost: what runs on there would be
// beside whatever comes next.
func TestKillFails(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := &slowBackend{Backend: local.New(local.Config{Program: sandboxtest.BuildProbe(t)})}
	s, err := sandbox.Start(ctx, b, sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Destroy(context.WithoutCancel(t.Context())) })
	killed, kill := context.WithCancel(ctx)
	c := s.Command("sleep", "600")
	if err := c.Start(killed); err != nil {
		t.Fatal(err)
	}
	if err := s.Command("true").Run(ctx); err != nil { // beside it
		t.Fatal(err)
	}
	data, control := b.conns[0], b.conns[1]
	if data.wrote.Load() < control.wrote.Load() {
		control = data
	}
	b.gone.Store(true)
	control.Close()
	kill()
	if err := c.Wait(); !errors.Is(err, sandbox.ErrLost) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want one that is lost and Canceled", err)
	}
	if _, err := s.ReadFile(ctx, sandbox.Workspace); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("the sandbox: %v", err)
	}
}
