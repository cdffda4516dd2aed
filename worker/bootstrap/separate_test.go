package bootstrap_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// Started with a database, the test's program is a worker, and who started as root is the user that envUser
// names.
const (
	envUser     = "BOOTSTRAP_TEST_USER"
	envDatabase = "BOOTSTRAP_TEST_DATABASE"
	envSchema   = "BOOTSTRAP_TEST_SCHEMA"
	envBroker   = "BOOTSTRAP_TEST_BROKER" // a worker of no steps with secrets, with this broker
)

// alone works until its input ends. For each process that it reads of there, it says what it could
// do to it, as a broker, and to its files.
func alone(database, schema string) error {
	pool, err := pgxpool.New(context.Background(), database)
	if err != nil {
		return err
	}
	defer pool.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error, 1)
	go func() {
		cfg := worker.Config{Pool: pool, Schema: schema, Workflows: []*workflow.Definition{wordsV1, showsV1, shipV1}}
		if at, ok := os.LookupEnv(envBroker); ok {
			cfg.Broker, cfg.Workflows = at, []*workflow.Definition{wordsV1}
		}
		done <- worker.Run(ctx, cfg)
	}()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		can := reach(in.Text(), os.Getenv(envStore))
		other := brokerlink.NewSetup(pool, schema)
		other.Params = map[string]string{"application_name": "other"}
		link := brokerlink.Child(other, func(string) {})
		_, err := link.Client(ctx)
		link.Close()
		can["a broker for another database"] = err == nil
		out, err := json.Marshal(can)
		if err != nil {
			return err
		}
		fmt.Println(string(out))
	}
	stop()
	return <-done
}
