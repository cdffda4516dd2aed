package workflow_test

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	serveExamples()
	code := m.Run()
	if err := databases.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
