package attest_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/sandbox/kubernetes/attest"
)

// A broker in a pod of its own, with the account of examples/kubernetes/broker.yaml. What it prints belongs into
// kubernetes.Config.ProofKey of the workers.
func Example() {
	serve := func(ctx context.Context, pool *pgxpool.Pool, door net.Listener, tls *tls.Config) error {
		const dir = "/var/lib/brokerd" // of a secret with the broker's key
		key, err := broker.ProofKey(dir)
		if err != nil {
			return err
		}
		fmt.Println("workers: ProofKey", key)
		attestor, err := attest.New(attest.Config{
			Namespace: "stepward", Worker: "stepward/stepward-worker", ProofKey: key,
			RunnerImage: "registry.example.com/stepward-worker@sha256:0f2c…",
			Images:      []string{"registry.example.com/tools@sha256:9b41…"},
		})
		if err != nil {
			return err
		}
		secrets, err := filestore.Open(filestore.Config{Dir: "/var/lib/brokerd/secrets"})
		if err != nil {
			return err
		}
		return broker.Serve(ctx, door, broker.Config{
			Pool: pool, Dir: dir, TLS: tls,
			Stores:    map[string]broker.Store{"file": secrets},
			Attestors: map[string]broker.Attestor{"kubernetes": attestor},
		})
	}
	_ = serve
}
