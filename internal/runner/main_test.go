package runner_test

import (
	"os"
	"testing"

	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandboxtest.Init()
	os.Exit(m.Run())
}
