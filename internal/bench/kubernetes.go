package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// The bars of a pod that is ready, in milliseconds.
const (
	barAcquire    = 100
	barAcquireP99 = 300
)

var benchLine = regexp.MustCompile(`(?m)^Benchmark(Start|Acquire)\S*\s.*?([\d.]+) p50-ms\s+([\d.]+) p99-ms`)

// benchKubernetes times sandboxes of pods on the cluster of KUBECONFIG, by the
// benchmarks of their package: it is of another module.
func benchKubernetes(ctx context.Context, b *bench) error {
	if os.Getenv("KUBECONFIG") == "" {
		b.report.note("kubernetes left out: no KUBECONFIG is set")
		return nil
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/stepward/stepward").Output()
	if err != nil {
		return fmt.Errorf("find the module's sources: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench=.", "-benchtime="+strconv.Itoa(b.times(30))+"x", ".")
	cmd.Dir = filepath.Join(string(bytes.TrimSpace(root)), "sandbox", "kubernetes")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("benchmarks of sandbox/kubernetes: %w: %s", err, out)
	}
	for _, m := range benchLine.FindAllSubmatch(out, -1) {
		p50, err := strconv.ParseFloat(string(m[2]), 64)
		if err != nil {
			return err
		}
		p99, err := strconv.ParseFloat(string(m[3]), 64)
		if err != nil {
			return err
		}
		if string(m[1]) == "Start" {
			b.report.add("kubernetes: start of a pod, image present, p50", p50, "ms")
			b.report.add("kubernetes: start of a pod, image present, p99", p99, "ms")
			continue
		}
		b.report.bar("kubernetes: a step's start in a pod that is ready, with environment, policy and rows, p50", p50, "ms", barAcquire)
		b.report.bar("kubernetes: a step's start in a pod that is ready, with environment, policy and rows, p99", p99, "ms", barAcquireP99)
	}
	return nil
}
