package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandboxtest.Init()
	os.Exit(m.Run())
}

// A cutter is a backend whose connections break after a number of bytes.
type cutter struct {
	sandbox.Backend

	mu     sync.Mutex
	first  []net.Conn    // those of Start
	after  []int         // bytes that the next connections carry; then they last
	broken chan struct{} // gets one per connection that broke
}

func (c *cutter) Dial(ctx context.Context, id string) (net.Conn, error) {
	conn, err := c.Backend.Dial(ctx, id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || len(c.after) == 0 {
		c.first = append(c.first, conn)
		return conn, err
	}
	left := c.after[0]
	c.after = c.after[1:]
	return &cutConn{Conn: conn, left: left, broken: c.broken}, nil
}

type cutConn struct {
	net.Conn
	left   int // used by the one reader
	broken chan struct{}
}

func (c *cutConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		c.Close()
		c.broken <- struct{}{}
		c.left = -1
	}
	if c.left < 0 {
		return 0, errors.New("the connection was cut")
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// startCut starts a sandbox whose next connections carry so many bytes.
func startCut(t *testing.T, after ...int) (*sandbox.Sandbox, *cutter) {
	t.Helper()
	c := &cutter{Backend: local.New(local.Config{Program: sandboxtest.BuildProbe(t)}), broken: make(chan struct{}, len(after))}
	s, err := sandbox.Start(t.Context(), c, sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after = after
	for _, conn := range c.first {
		conn.Close()
	}
	return s, c
}

// numbers is what "seq 1 n" prints.
func numbers(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintln(&b, i+1)
	}
	return b.Bytes()
}

// same says where two outputs begin to differ.
func same(t *testing.T, got, want []byte) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("differs from byte %d of %d on: %.60q", i, len(want), got[i:])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d bytes, not %d", len(got), len(want))
	}
}

// The output of a command goes on at the right byte on the next connection,
// wherever the last one broke.
func TestReconnect(t *testing.T) {
	// The first breaks between frames or in one, the others after ever more.
	after := []int{500, 1000, 4097, 70_001, 131_072, 400_000, 1 << 20, 3_000_000}
	s, c := startCut(t, after...)
	const n = 1_500_000
	got, err := s.Command("seq", "1", fmt.Sprint(n)).Output(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, numbers(n))
	if len(c.broken) != len(after) {
		t.Errorf("%d connections broke, not %d", len(c.broken), len(after))
	}
}

// So does its input: nothing of it is lost, or given twice, and its end arrives.
func TestReconnectStdin(t *testing.T) {
	after := []int{500, 1000, 4097, 70_001, 131_072, 400_000, 1 << 20}
	s, c := startCut(t, after...)
	const n = 800_000
	want := numbers(n)
	cmd := s.Command("cat")
	cmd.Stdin = bytes.NewReader(want)
	got, err := cmd.Output(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
	if len(c.broken) != len(after) {
		t.Errorf("%d connections broke, not %d", len(c.broken), len(after))
	}
}

// A reader that was far behind when the connection broke misses nothing, though
// the runner had written all that was on its way.
func TestReconnectBehind(t *testing.T) {
	s, c := startCut(t, 900_000)
	const n = 1_000_000
	var got bytes.Buffer
	cmd := s.Command("seq", "1", fmt.Sprint(n))
	first := true
	cmd.Stdout = writer(func(p []byte) (int, error) {
		if first {
			first = false
			select {
			case <-c.broken:
			case <-time.After(testenv.Patience):
				t.Error("the connection has not broken")
			}
		}
		return got.Write(p)
	})
	if err := cmd.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, got.Bytes(), numbers(n))
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// A command whose exit was missed with the connection is not run again.
func TestReconnectOnce(t *testing.T) {
	for _, after := range []int{300, 400, 500, 600, 700, 800} { // some before the end, some behind it
		s, _ := startCut(t, after)
		if err := s.Command("sh", "-c", "echo once >> /workspace/count; exit 3").Run(t.Context()); err == nil {
			t.Error("no error")
		} else if ee := (*sandbox.ExitError)(nil); !errors.As(err, &ee) || ee.Code != 3 {
			t.Errorf("cut after %d bytes: %v, want exit status 3", after, err)
		}
		got, err := s.ReadFile(t.Context(), "count")
		if errors.Is(err, sandbox.ErrLost) { // the cut was after the end of the command
			got, err = s.ReadFile(t.Context(), "count")
		}
		if err != nil || string(got) != "once\n" {
			t.Errorf("cut after %d bytes: it ran %q, %v", after, got, err)
		}
	}
}

// Without any connection that lasts, a command is lost: never a hang.
func TestReconnectNever(t *testing.T) {
	after := []int{4096}
	for range 100 {
		after = append(after, 10)
	}
	s, _ := startCut(t, after...)
	c := s.Command("sh", "-c", "cat & seq 1 1000000")
	c.Stdin = bytes.NewReader(numbers(100_000))
	if _, err := c.Output(t.Context()); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("got %v, want ErrLost", err)
	}
}
