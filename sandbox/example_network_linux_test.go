package sandbox_test

import (
	"context"
	"fmt"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
)

// One host may be reached. What a program wanted otherwise it is told, and so are
// we.
func ExampleNetworkPolicy() {
	ctx := context.Background()
	s, err := sandbox.Start(ctx, local.New(local.Config{}), sandbox.Options{
		Spec: sandbox.Spec{Network: sandbox.NetworkPolicy{Allow: []string{"example.com:443"}}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Destroy(ctx)
	out, err := s.Command("curl", "-sS", "http://example.net/?secret=1234").CombinedOutput(ctx)
	fmt.Print(string(out))
	if err != nil {
		fmt.Println(err)
	}
	for _, e := range s.Egress() {
		fmt.Printf("%s:%d was %s %d times\n", e.Host, e.Port, e.Decision, e.Count)
	}
	// Output:
	// stepward: example.net:80 is not allowed: no entry of Network.Allow names it
	// example.net:80 was denied 1 times
}

// A program that knows of no proxy is connected, or refused, where the kernel and the
// backend allow that; who needs it requires it.
func ExampleRequire() {
	ctx := context.Background()
	s, err := sandbox.Start(ctx, local.New(local.Config{}), sandbox.Options{
		Spec: sandbox.Spec{
			Network: sandbox.NetworkPolicy{Allow: []string{"example.com:443"}},
			Require: sandbox.Require{Transparent: true},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Destroy(ctx)
	out, _ := s.Command("bash", "-c", "exec 3<>/dev/tcp/example.net/80").CombinedOutput(ctx)
	fmt.Print(string(out))
	for _, e := range s.Egress() {
		fmt.Printf("%s:%d was %s: %s\n", e.Host, e.Port, e.Decision, e.Reason)
	}
	// Output:
	// bash: connect: Permission denied
	// bash: line 1: /dev/tcp/example.net/80: Permission denied
	// example.net:80 was denied: no entry of Network.Allow names it
}
