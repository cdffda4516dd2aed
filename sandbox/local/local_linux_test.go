package local_test

import (
	"os"
	"testing"

	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandboxtest.Init()
	os.Exit(m.Run())
}

func TestBackend(t *testing.T) {
	sandboxtest.TestBackend(t, local.New(local.Config{}), sandboxtest.Options{})
}
