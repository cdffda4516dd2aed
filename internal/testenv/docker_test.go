package testenv_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/testenv"
)

// TestEngineEndsWithItsProcess kills a process that started an engine.
func TestEngineEndsWithItsProcess(t *testing.T) {
	if os.Getenv("TESTENV_DOCKER_CHILD") != "" {
		fmt.Println("engine", testenv.Docker(t))
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		return
	}
	testenv.Require(t, testenv.PartRoot)
	if _, err := exec.LookPath("dockerd"); err != nil {
		testenv.Skip(t, testenv.PartDocker, "no dockerd in PATH (apt-get install docker.io)")
	}
	child := exec.Command(os.Args[0], "-test.run=^TestEngineEndsWithItsProcess$")
	child.Env = append(os.Environ(), "TESTENV_DOCKER_CHILD=1", "DOCKER_HOST=")
	if _, err := child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	socket, ok := strings.CutPrefix(strings.TrimSpace(line), "engine unix://")
	child.Process.Kill()
	child.Wait()
	if !ok {
		t.Fatalf("child printed %q", line)
	}
	if !strings.Contains(socket, "/stepward-docker-") {
		return // it found a running one, which is none of its business
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(filepath.Dir(socket)); os.IsNotExist(err) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s is still there", socket)
		}
	}
}
