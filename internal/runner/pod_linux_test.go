package runner_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func TestInstall(t *testing.T) {
	program := sandboxtest.BuildProbe(t)
	path := filepath.Join(t.TempDir(), "program")
	install := func(mode string) ([]byte, error) {
		c := exec.Command(program)
		c.Env = []string{runner.EnvMode + "=install", runner.EnvInstall + "=" + path, runner.EnvInstallMode + "=" + mode}
		return c.CombinedOutput()
	}
	for _, mode := range []string{"", "999"} {
		if out, err := install(mode); err == nil {
			t.Errorf("mode %q: %s", mode, out)
		}
	}
	if out, err := install("111"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o111 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if out, err := exec.Command(path, "probe:out", "0", "it runs", "").Output(); err != nil || string(out) != "it runs" {
		t.Errorf("the copy: %q, %v", out, err)
	}
	if out, err := install("111"); err == nil {
		t.Errorf("over what is there: %s", out)
	}
}

// What a tool runner is to prove itself with is brought by the installer, and is gone when the tool runner serves.
func TestInstallWitness(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "token"), filepath.Join(dir, "witness")
	if err := os.WriteFile(from, []byte("s3cr3t"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(sandboxtest.BuildProbe(t))
	c.Env = []string{
		runner.EnvMode + "=install", runner.EnvInstall + "=" + filepath.Join(dir, "program"), runner.EnvInstallMode + "=111",
		runner.EnvInstallWitness + "=" + from, runner.EnvWitnessFile + "=" + to,
	}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != "s3cr3t" {
		t.Fatalf("%q, %v", got, err)
	}
	witness := []string{runner.EnvWitness + "=x", runner.EnvWitnessFile + "=" + to, runner.EnvWitnessBroker + "=eA=="}
	address, _, _ := onLoopback(t, witness...)
	greeted(t, address)
	if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file of a runner that serves: %v", err)
	}
	_, c, stderr := onLoopback(t, witness...)
	if err := c.Wait(); err == nil || !strings.Contains(stderr.String(), runner.EnvWitnessFile) {
		t.Errorf("without the file: %v, %s", err, stderr)
	}
}

// onLoopback is a tool runner on a port of loopback, as it is in a pod.
func onLoopback(t *testing.T, env ...string) (address string, c *exec.Cmd, stderr *bytes.Buffer) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = ln.Addr().String()
	ln.Close()
	hash := sha256.Sum256([]byte("token"))
	c = exec.Command(sandboxtest.BuildProbe(t))
	c.Env = append([]string{
		runner.EnvMode + "=serve", runner.EnvSocket + "=" + address, runner.EnvOrphanAfter + "=10m",
		runner.EnvTokenHash + "=" + hex.EncodeToString(hash[:]),
	}, env...)
	stderr = &bytes.Buffer{}
	c.Stderr = stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return address, c, stderr
}

// greeted waits until the runner greets.
func greeted(t *testing.T, address string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	for deadline := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(deadline); conn, err = net.Dial("tcp", address) {
		_, _ = unix.Poll(nil, 1) // it is still starting
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hello := make([]byte, len(runner.Connected))
	if _, err := io.ReadFull(conn, hello); err != nil || string(hello) != runner.Connected {
		t.Errorf("it greets with %q, %v", hello, err)
	}
}

// While the network is open nobody is served.
func TestClosedNetwork(t *testing.T) {
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(open.Addr().String())
	address, _, _ := onLoopback(t, runner.EnvClosed+"=127.0.0.1 "+port)
	for range 3 {
		c, err := open.Accept() // it tries
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			t.Fatal("it serves while its network is open")
		}
	}
	open.Close()
	greeted(t, address)
}

func TestClosedNeedsAnAddress(t *testing.T) {
	_, c, stderr := onLoopback(t, runner.EnvClosed+"= ")
	if err := c.Wait(); err == nil || !strings.Contains(stderr.String(), "not a host and a port") {
		t.Errorf("%v: %s", err, stderr)
	}
}

// Who started the sandbox can end the runner by SIGTERM, if commands cannot.
func TestTerminated(t *testing.T) {
	if confine.Landlock() < 6 {
		t.Log("the kernel keeps no command from signalling the runner, so that it does not listen")
		return
	}
	address, c, stderr := onLoopback(t)
	greeted(t, address)
	if err := c.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, stderr)
	}
}

func TestNotOnLoopback(t *testing.T) {
	_, c, stderr := onLoopback(t, runner.EnvSocket+"=0.0.0.0:0")
	if err := c.Wait(); err == nil || !strings.Contains(stderr.String(), "loopback") {
		t.Errorf("%v: %s", err, stderr)
	}
}
