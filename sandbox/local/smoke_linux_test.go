package local

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/sandbox"
)

func TestMain(m *testing.M) {
	runner.Main(nil)
	os.Exit(m.Run())
}

func TestSmoke(t *testing.T) {
	b := New(Config{})
	t0 := time.Now()
	s, err := sandbox.Start(context.Background(), b, sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("start", time.Since(t0))
	defer s.Destroy(context.Background())
	for range 5 {
		t0 = time.Now()
		out, err := s.Command("sh", "-c", "id; pwd; ls -la /; cat /proc/mounts | wc -l; grep -i cap /proc/self/status; ps ax").CombinedOutput(context.Background())
		t.Logf("%s %v %v %+v", out, err, time.Since(t0), s.Enforcement())
	}
	t0 = time.Now()
	for range 100 {
		if err := s.Command("true").Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Log("exec", time.Since(t0)/100)
}
