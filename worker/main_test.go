//go:build unix

package worker_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/stepward/stepward/worker/bootstrap"
)

func TestMain(m *testing.M) {
	bootstrap.Init(chainV1, journeyOld, journeyNew)
	if cfg, ok := os.LookupEnv(envVictim); ok {
		os.Exit(beVictim(cfg))
	}
	flag.Parse()
	if flag.Lookup("test.parallel").Value.String() == flag.Lookup("test.parallel").DefValue {
		// The tests wait for other processes and for Postgres most of the time.
		if err := flag.Set("test.parallel", "8"); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if err := databases.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
