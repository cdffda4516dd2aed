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
	dir := filepath.Dir(socket)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := os.Stat(dir)
		processes, mounts := naming(t, dir, "ps", "-eo", "pid,args"), naming(t, dir, "cat", "/proc/mounts")
		if os.IsNotExist(err) && processes == "" && mounts == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s is still there: %v\n%s%s", dir, err, processes, mounts)
		}
	}
}

// naming returns the lines of a command's output that contain a text.
func naming(t *testing.T, text, command string, args ...string) string {
	t.Helper()
	out, err := exec.Command(command, args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var found strings.Builder
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, text) {
			found.WriteString(line)
		}
	}
	return found.String()
}
