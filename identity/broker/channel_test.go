package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/rpc"
)

// A connection that has gone before it is answered gives back its place.
func TestConnectionGone(t *testing.T) {
	r, err := openRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{hosts: places{size: 1}}
	i := &injection{b: b, conns: map[*channel]bool{}, keys: []injected{{endpoints: []string{"example.com:443"}}}}
	if i.ca, err = r.authority(envelope.ID{1}, []string{"example.com"}); err != nil {
		t.Fatal(err)
	}
	c, err := i.connect("example.com:443")
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	end := make(chan error, 1)
	go func() {
		end <- c.carry(func() (*rpc.InjectRequest, error) { return nil, gone }, func(*rpc.InjectResponse) error { return gone })
	}()
	select {
	case err := <-end:
		if !errors.Is(err, gone) || len(i.conns) != 0 || b.hosts.busy != 0 {
			t.Errorf("%v, and %d of %d", err, len(i.conns), b.hosts.busy)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for what never began")
	}
}
