package sandbox_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"testing"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// held is what this process holds on to, in bytes.
func held() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// However much a command prints, and however slow its reader is, the worker holds
// a bounded part, and the command waits.
func TestOutputBounded(t *testing.T) {
	const total, most = 1 << 30, 8 << 20
	probe := sandboxtest.BuildProbe(t)
	s, err := sandbox.Start(t.Context(), local.New(local.Config{Program: probe}), sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.WithoutCancel(t.Context()))
	wrote := func() int64 {
		raw, err := s.ReadFile(t.Context(), "wrote")
		if err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.ParseInt(string(raw), 10, 64)
		return n
	}
	before, peak := held(), int64(0)
	blocked, goOn := make(chan struct{}), make(chan struct{})
	var read, sampled int64
	c := s.Command("sh", "-c", fmt.Sprintf(
		`i=0; while [ $i -lt %d ]; do head -c 8388608 /dev/zero; i=$((i+1)); printf $((i*8388608)) > wrote.new; mv wrote.new wrote; done`, total>>23))
	c.Stdout = writer(func(p []byte) (int, error) {
		read += int64(len(p))
		if read > 64<<20 && goOn != nil {
			close(blocked)
			<-goOn
			goOn = nil
		}
		if read-sampled > 100<<20 {
			sampled, peak = read, max(peak, held())
		}
		return len(p), nil
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-blocked
	for range 100 { // other commands do not wait, and take longer than all the output would
		if err := s.Command("true").Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := wrote(); n > read+most {
		t.Errorf("it wrote %d bytes while its reader stood at %d", n, read)
	}
	close(goOn)
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if u := c.Usage(); read != total || u.Stdout != total || u.Truncated != 0 {
		t.Errorf("read %d bytes, %+v", read, u)
	}
	t.Logf("the worker grew by %d KiB", (peak-before)>>10)
	if peak-before > most {
		t.Errorf("the worker grew by %d bytes", peak-before)
	}
}
