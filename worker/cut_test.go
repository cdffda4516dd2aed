//go:build unix

package worker_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/workflow"
)

// cutConn is a connection to Postgres that can be cut between a commit and its
// answer: the server has done what it was asked to, and the client never hears.
type cutConn struct {
	net.Conn
	mark  string       // a file that says that it happened
	deaf  *atomic.Bool // notifications get lost
	armed atomic.Bool

	mu   sync.Mutex // as any net.Conn, it may be read by several: pgx reads to the end what it gives up
	r    *bufio.Reader
	rest []byte // of the message that is being passed on
}

// Read passes the server's messages on, one at a time, until those that answer
// an execution (BindComplete, or CommandComplete of a simple query) arrive armed.
// It drops them to ReadyForQuery: what was executed is committed then.
func (c *cutConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.rest) == 0 {
		for dropping := false; ; {
			head, err := c.r.Peek(5)
			if err != nil {
				return 0, err
			}
			message := make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
			if _, err := io.ReadFull(c.r, message); err != nil {
				return 0, err
			}
			if message[0] == 'A' && c.deaf != nil && c.deaf.Load() {
				continue
			}
			dropping = dropping || c.armed.Load() && (head[0] == '2' || head[0] == 'C')
			if !dropping {
				c.rest = message
				break
			}
			if message[0] == 'Z' {
				if err := os.WriteFile(c.mark, nil, 0o600); err != nil {
					return 0, err
				}
				return 0, errors.Join(io.ErrUnexpectedEOF, c.Close())
			}
		}
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// cut makes the connections of a pool lose the answer to the nth execution of a
// statement. In a transaction it is the answer to COMMIT that is lost.
type cut struct {
	*crash
	mark string
}

func (c *cut) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: conn, r: bufio.NewReader(conn), mark: c.mark}, nil
}

func (c *cut) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if !c.is(data.SQL) {
		return ctx
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left == 0 {
		conn.PgConn().Conn().(*cutConn).armed.Store(true)
	}
	return ctx
}

func (c *cut) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestCut loses the answer to every write of a turn and of the upkeep. The
// worker lives, and keeps its lease: so no step at all is executed twice, but
// for the attempts that fail.
func TestCut(t *testing.T) {
	t.Setenv(sandboxtest.EnvProbe, sandboxtest.BuildProbe(t))
	for _, k := range killings {
		t.Run(strings.Trim(k.statement+"/"+k.name, "/"), func(t *testing.T) {
			t.Parallel()
			k.testCut(t)
		})
	}
}

func (k killing) testCut(t *testing.T) {
	f := newFixture(t)
	r := k.begin(f)
	k.victim.CutMark = t.TempDir() + "/cut"
	if k.victim.LeaseTTL != 0 {
		k.victim.LeaseTTL = 5 * time.Second // time for another beat
	}
	if k.victim.Hold != "" && !k.drain {
		k.victim.Hold = "deaf"
	}
	before, visited := r.checkpoints(), len(r.visits())
	p := f.startVictim(k.victim, fmt.Sprintf("%s:cut:%d", k.statement, k.n))
	if k.drain {
		eventually(t, "step hold begins", func() bool { return slices.Contains(r.visits(), "hold") })
		k.pauses(r)
		p.signal(syscall.SIGTERM)
		p.diedOf(0)
	}
	eventually(t, "the connection is cut", func() bool {
		k.wakeUp(r)
		_, err := os.Stat(k.victim.CutMark)
		return err == nil
	})
	if k.victim.Old || k.victim.NoBackend {
		eventually(t, "the run parks", func() bool { return f.state(r.run.ID).State == workflow.StateParked })
		p.signal(syscall.SIGTERM) // or it parks the run again
		p.diedOf(0)
	}
	if k.drain || k.victim.Old || k.victim.NoBackend {
		f.takeOver()
	}
	k.resumes(r)
	if k.wake {
		eventually(t, "the run ends", func() bool {
			k.wakeUp(r)
			s := f.state(r.run.ID).State
			return s != workflow.StateReady && s != workflow.StateRunning && s != workflow.StateWaiting
		})
	}
	if k.statement == "WorkerHeartbeat" { // the beat was lost, the lease was not: the next one holds it
		if n := f.count("SELECT count(*) FROM stepward.worker"); n != 1 {
			t.Errorf("the worker began %d sessions", n)
		}
	}
	if err := os.WriteFile(r.in.Log+".go", nil, 0o600); err != nil { // ends step hold
		t.Fatal(err)
	}
	r.arrives(t.Context(), before, visited)
	k.ticked(r)
	if s := f.state(r.run.ID); !k.wake && !k.late && k.statement != "TurnRenew" && !strings.Contains(fmt.Sprint(k.path), "kin") && s.Turns != k.turns() {
		t.Errorf("the run was claimed or recovered %d times, not %d", s.Turns, k.turns())
	}
	for key, n := range counts(r.visits()) {
		want := 1
		if key == "flaky" || key == "slow" || key == "hold" && k.drain || key == "big" && k.firstCrash != "" {
			want = 2
		}
		if n > want {
			t.Errorf("step %s was executed %d times", key, n)
		}
	}
	if k.victim.Warm.Max > 0 { // or it keeps one ready
		p.signal(syscall.SIGTERM)
		p.diedOf(0)
	}
	if slices.Contains(k.path, "box") {
		f.noSandboxLeft()
		sandboxes := 1
		if k.firstCrash != "" { // in the first one's
			sandboxes = 2
		}
		if n := f.count("SELECT count(*) FROM stepward.event WHERE kind = 'sandbox.created'"); n != sandboxes {
			t.Errorf("%d events tell of %d sandboxes", n, sandboxes)
		}
		if n := f.count("SELECT count(*) FROM stepward.event WHERE kind = 'sandbox.egress'"); n != 1 {
			t.Errorf("%d events tell what it wanted to reach", n)
		}
	}
	if strings.Contains(fmt.Sprint(k.path), "big") {
		f.noBlobLeft()
	}
}

// turns is how often the run of a case is claimed or recovered when only an answer is lost.
func (k killing) turns() int {
	switch {
	case k.statement == "WorkerReap", k.statement == "TurnReap", k.statement == "BlobDelete", k.statement == "AttemptTake", k.statement == "SandboxSweep":
		return 3 // claimed, recovered, claimed
	case k.statement == "ParkUnservable", k.firstCrash == "" && !k.drain && !k.victim.Old && k.statement != "Claim" && k.statement != "ClaimLimited":
		return 1
	}
	return 2 // another worker, or a claim that its worker never heard of
}

func counts(keys []string) map[string]int {
	m := make(map[string]int)
	for _, k := range keys {
		m[k]++
	}
	return m
}
