package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/stepward/stepward/internal/bench/trees"
)

// The bars of a pod that is ready, in milliseconds.
const (
	barAcquire    = 100
	barAcquireP99 = 300
)

// A kubernetesRow is a benchmark of sandbox/kubernetes. Bars of zero are none.
type kubernetesRow struct {
	benchmark, name string
	p50, p99        float64
}

var kubernetesRows = []kubernetesRow{
	{"Start", "start of a pod, image present", 0, 0},
	{"Acquire/Secrets0", "a step's start in a pod that is ready, with environment, policy and rows", barAcquire, barAcquireP99},
	{"Acquire/Secrets3", "a step's start in a pod that is ready, with environment, 3 secrets, policy and rows", barAcquire, barAcquireP99},
}

var benchLine = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s.*?([\d.]+) p50-ms\s+([\d.]+) p99-ms`)

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
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench=.", "-benchtime="+strconv.Itoa(b.times(30))+"x", "-timeout=0", ".")
	cmd.Dir = filepath.Join(string(bytes.TrimSpace(root)), "sandbox", "kubernetes")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("benchmarks of sandbox/kubernetes: %w: %s", err, out)
	}
	figures := map[string][2]float64{}
	for _, m := range benchLine.FindAllSubmatch(out, -1) {
		p50, err := strconv.ParseFloat(string(m[2]), 64)
		if err != nil {
			return err
		}
		p99, err := strconv.ParseFloat(string(m[3]), 64)
		if err != nil {
			return err
		}
		figures[string(m[1])] = [2]float64{p50, p99}
	}
	rows := slices.Clone(kubernetesRows)
	for _, tree := range trees.All {
		rows = append(rows, kubernetesRow{"Kill/" + strings.ReplaceAll(tree.Name, " ", "_"), "kill of " + tree.Name, 0, 0})
	}
	rows = append(rows, kubernetesRow{"Kill/all", "kill, of all of these", barKill, barKillP99})
	for _, row := range rows {
		f, ok := figures[row.benchmark]
		if !ok {
			return fmt.Errorf("benchmarks of sandbox/kubernetes: no figures of %s in: %s", row.benchmark, out)
		}
		b.report.bar("kubernetes: "+row.name+", p50", f[0], "ms", row.p50)
		b.report.bar("kubernetes: "+row.name+", p99", f[1], "ms", row.p99)
	}
	return nil
}
