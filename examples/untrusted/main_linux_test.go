package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"testing"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/examples/internal/apptest"
	"github.com/stepward/stepward/internal/egress"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/worker/bootstrap"
)

func TestMain(m *testing.M) {
	bootstrap.Init()
	os.Exit(m.Run())
}

// example.com is a server of the test's: it needs no Internet.
func TestOutput(t *testing.T) {
	can, err := local.New(local.Config{}).Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	memory := ""
	if can.Memory {
		memory = `memory.sh
		  | "Killed"
		  | "tail ended with 137"
		  ended: sandbox: sh: exit status 1 (the sandbox met its limit of 128 MiB of memory, Limits.Memory)
		`
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) }))
	defer s.Close()
	network := egress.Network{
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("93.184.216.34")}, nil
		},
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
		},
	}
	apptest.Output(t, func(ctx context.Context, a *app.App) error {
		return example(egress.WithNetwork(ctx, network), a, "example.com", nil)
	}, `
		network.sh
		  | "example.com: 200"
		  | "stepward: example.net:80 is not allowed: no entry of Network.Allow names it"
		  ended: well
		  audit: example.com:80 allowed
		  audit: example.net:80 denied no entry of Network.Allow names it
		`+memory+`slow.sh
		  | "so far, so good"
		  ended: sandbox: sh: killed by SIGKILL (timed out)
		bomb.sh
		  | "bomb.sh: 0: Cannot fork"
		  ended: sandbox: sh: exit status 2 (the sandbox met its limit of 64 processes, Limits.PIDs)
	`)
}
