//go:build linux

package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// What a sandbox reached, and what it was kept from, is on record when its step
// is.
func TestEgressIsAudited(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "welcome")
			c.Close()
		}
	}()
	port := ln.Addr().(*net.TCPAddr).Port
	allowed := fmt.Sprintf(`p=${https_proxy#http://}; exec 3<>/dev/tcp/${p%%:*}/${p#*:}
		printf 'CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\n' >&3; grep -q welcome <&3`, port)
	reach := workflow.NewToolStep("reach", func(ctx context.Context, sb *sandbox.Sandbox, in int) (int, error) {
		for _, script := range []string{allowed, askProxy, askProxy} {
			if out, err := sb.Command("/bin/bash", "-c", script).CombinedOutput(ctx); err != nil {
				return 0, fmt.Errorf("%w: %s", err, out)
			}
		}
		return in, nil
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Network: sandbox.NetworkPolicy{Allow: []string{ln.Addr().String()}}}})
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(double, reach), double, reach)}, Backends: backends(t)})
	run, err := changing.Enqueue(t.Context(), f.client, 21, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, run); err != nil {
		t.Fatal(err)
	}
	events, err := audit.Events(t.Context(), f.pool, audit.Filter{Schema: f.schema, Run: run.ID, Kinds: []string{audit.SandboxCreated, audit.SandboxEgress}})
	if err != nil || len(events) != 2 {
		t.Fatalf("%+v, %v", events, err)
	}
	if d := string(events[0].Detail); !strings.Contains(d, `"network":"stream"`) {
		t.Errorf("created: %s", d)
	}
	var d struct {
		Sandbox string
		Egress  []sandbox.Egress
	}
	if err := json.Unmarshal(events[1].Detail, &d); err != nil || d.Sandbox == "" || !strings.HasPrefix(events[1].Step, "reach") {
		t.Errorf("%+v, %v", events[1], err)
	}
	want := []sandbox.Egress{
		{Host: "127.0.0.1", Port: port, Decision: "allowed", Count: 1, Received: int64(len("welcome\n"))},
		{Host: "denied.invalid", Port: 443, Decision: "denied", Reason: "no entry of Network.Allow names it", Count: 2},
	}
	if fmt.Sprint(d.Egress) != fmt.Sprint(want) {
		t.Errorf("on record: %+v, want %+v", d.Egress, want)
	}
}
