package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
)

// Dial connects to the tool runner of a sandbox, whichever process made it,
// through the API server. Each connection is one to the API server as well, so
// that bulk data on one holds up no other.
func (b *Backend) Dial(ctx context.Context, id string) (net.Conn, error) {
	c, err := b.connect(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := c.forward(ctx, shape.PodName(id))
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	pod, gerr := c.api.CoreV1().Pods(c.namespace).Get(ctx, shape.PodName(id), meta.GetOptions{})
	switch {
	case apierrors.IsNotFound(gerr):
		return nil, fmt.Errorf("%w: no sandbox %s on backend kubernetes", sandbox.ErrLost, id)
	case gerr != nil:
		return nil, fmt.Errorf("sandbox: dial %s: %w (and looking at its pod: %w)", id, err, gerr)
	}
	if why := whyEnded(pod); why != "" {
		return nil, fmt.Errorf("%w: %s has ended: %s", sandbox.ErrLost, id, why)
	}
	if errors.Is(err, errNoRunner) {
		return nil, fmt.Errorf("%w: dial %s: %w", sandbox.ErrLost, id, err)
	}
	return nil, fmt.Errorf("sandbox: dial %s: %w", id, err)
}

// whyEnded says why a pod serves no more, empty if it may.
func whyEnded(pod *core.Pod) string {
	for _, s := range pod.Status.ContainerStatuses {
		t := s.State.Terminated
		switch {
		case t == nil:
		case t.Reason == "OOMKilled":
			return fmt.Sprintf("it used more than Limits.Memory, %s", pod.Spec.Containers[0].Resources.Limits.Memory())
		default:
			return said(t)
		}
	}
	if pod.Status.Phase == core.PodFailed || pod.Status.Phase == core.PodSucceeded {
		return strings.TrimSpace(pod.Status.Reason + " " + pod.Status.Message)
	}
	if pod.DeletionTimestamp != nil {
		return "it is being deleted"
	}
	return ""
}

// reach connects once to a runner that may still be starting, or wait for its
// network to be closed.
func (c *cluster) reach(ctx context.Context, pod string) error {
	pause := 10 * time.Millisecond
	for {
		conn, err := c.forward(ctx, pod)
		if err == nil {
			return conn.Close()
		}
		if apierrors.IsForbidden(err) {
			return c.refused("create pods/portforward", err)
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, 200*time.Millisecond)
		case <-ctx.Done():
			return err
		}
	}
}

// errNoRunner reports that a port was forwarded to nobody.
var errNoRunner = errors.New("the tool runner does not answer")

// forward connects to the port of a pod's tool runner.
func (c *cluster) forward(ctx context.Context, pod string) (net.Conn, error) {
	transport, upgrader, err := spdy.RoundTripperFor(c.rest)
	if err != nil {
		return nil, err
	}
	url := c.api.CoreV1().RESTClient().Post().Resource("pods").Namespace(c.namespace).Name(pod).SubResource("portforward").URL()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url.String(), nil)
	if err != nil {
		return nil, err
	}
	over, err := upgrade(ctx, upgrader, &http.Client{Transport: transport}, req)
	if err != nil {
		return nil, err
	}
	conn := &forwarded{over: over, pod: pod}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.open(); err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	return conn, nil
}

// upgrade asks for a connection of streams. The request's context ends only the
// connecting, not the wait for an answer, which may come late: of a node that
// cannot be reached, for instance.
func upgrade(ctx context.Context, upgrader spdy.Upgrader, c *http.Client, req *http.Request) (httpstream.Connection, error) {
	type answer struct {
		over httpstream.Connection
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		over, _, err := spdy.NegotiateStreaming(upgrader, c, req, portforward.PortForwardProtocolV1Name)
		answers <- answer{over, err}
	}()
	select {
	case a := <-answers:
		return a.over, a.err
	case <-ctx.Done():
		go func() {
			if a := <-answers; a.err == nil {
				_ = a.over.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// A forwarded is a connection through a forwarded port. It has no deadlines.
type forwarded struct {
	over   httpstream.Connection
	data   httpstream.Stream
	pod    string
	closed sync.Once
	err    error
}

// open makes the streams, and waits for the tool runner's greeting.
func (f *forwarded) open() error {
	headers := http.Header{}
	headers.Set(core.PortHeader, strconv.Itoa(shape.Port))
	headers.Set(core.PortForwardRequestIDHeader, "0")
	headers.Set(core.StreamType, core.StreamTypeError)
	failure, err := f.over.CreateStream(headers)
	if err != nil {
		return err
	}
	failure.Close() // nothing is sent on it
	headers.Set(core.StreamType, core.StreamTypeData)
	if f.data, err = f.over.CreateStream(headers); err != nil {
		return err
	}
	why := make(chan string, 1)
	go func() { // ends with the connection
		text, _ := io.ReadAll(io.LimitReader(failure, 4<<10))
		why <- strings.TrimSpace(string(text))
	}()
	hello := make([]byte, len(runner.Connected))
	if _, err := io.ReadFull(f.data, hello); err != nil {
		_ = f.Close()
		return fmt.Errorf("%w: %w: %s", errNoRunner, err, <-why)
	}
	if string(hello) != runner.Connected {
		return fmt.Errorf("%w: what listens there is another program", errNoRunner)
	}
	return nil
}

func (f *forwarded) Read(p []byte) (int, error)  { return f.data.Read(p) }
func (f *forwarded) Write(p []byte) (int, error) { return f.data.Write(p) }

// CloseWrite says that no more is written. What was, arrives: Close may cut it off, on its way through the API server and
// the node.
func (f *forwarded) CloseWrite() error { return f.data.Close() }

func (f *forwarded) Close() error {
	f.closed.Do(func() { f.err = f.over.Close() })
	return f.err
}

func (f *forwarded) LocalAddr() net.Addr  { return podAddr(f.pod) }
func (f *forwarded) RemoteAddr() net.Addr { return podAddr(f.pod) }

func (*forwarded) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (*forwarded) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (*forwarded) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// A podAddr is the name of a pod.
type podAddr string

func (podAddr) Network() string  { return "portforward" }
func (a podAddr) String() string { return string(a) }
