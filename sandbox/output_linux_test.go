package sandbox_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// outputSize is how much the command of TestOutputBounded prints; 10 GiB take minutes.
var outputSize = flag.Int64("output", 1, "GiB that the command of TestOutputBounded prints")

var statusRSS = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)

// resident is what this process has in memory, in bytes, with what the collector has
// not given back.
func resident(t *testing.T) int64 {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	m := statusRSS.FindSubmatch(raw)
	if m == nil {
		t.Fatalf("no VmRSS in %s", raw)
	}
	kB, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kB << 10
}

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
	const most, mostResident = 8 << 20, 16 << 20
	total := *outputSize << 30
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
	if err := s.Command("true").Run(t.Context()); err != nil { // the worker is one that works
		t.Fatal(err)
	}
	before, peak := held(), int64(0)
	beforeResident, peakResident := resident(t), int64(0)
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
			peakResident = max(peakResident, resident(t))
			sampled, peak = read, max(peak, held())
		}
		return len(p), nil
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	testenv.Receive(t, blocked)
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
	peak, peakResident = peak-before, peakResident-beforeResident
	t.Logf("the worker grew by %d KiB, and in memory by %d KiB", peak>>10, peakResident>>10)
	// The collector may let as much lie as was held before, of which the probe is most.
	if peak > most || peakResident > mostResident+before {
		t.Errorf("the worker grew by %d bytes, and in memory by %d", peak, peakResident)
	}
}
