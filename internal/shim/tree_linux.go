package shim

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killTree kills all descendants, until empty is closed.
func killTree(empty <-chan struct{}) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		if os.Getpid() == 1 { // of a namespace: /proc is that of another
			_ = unix.Kill(-1, unix.SIGKILL)
		} else {
			killDescendants()
		}
		pause.Reset(time.Millisecond)
		select {
		case <-empty:
			return
		case <-pause.C:
		}
	}
}

// killDescendants stops all that there are, then kills them.
func killDescendants() {
	var stopped []int
	for range 100 { // a fork bomb makes new ones while it is being stopped
		fresh := false
		for _, pid := range Descendants(os.Getpid()) {
			if !slices.Contains(stopped, pid) {
				unix.Kill(pid, unix.SIGSTOP)
				stopped = append(stopped, pid)
				fresh = true
			}
		}
		if !fresh {
			break
		}
	}
	for _, pid := range stopped {
		unix.Kill(pid, unix.SIGKILL)
	}
}

// Descendants lists the processes below pid.
func Descendants(pid int) []int {
	var out []int
	queue := []int{pid}
	for len(queue) > 0 {
		children, err := childrenOf(queue[0])
		if err != nil {
			return byParent(pid)
		}
		queue = append(queue[1:], children...)
		out = append(out, children...)
	}
	return out
}

func childrenOf(pid int) ([]int, error) {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	dir, err := os.ReadDir(tasks)
	if err != nil {
		return nil, nil //nolint:nilerr // it has ended
	}
	var out []int
	for _, t := range dir {
		raw, err := os.ReadFile(tasks + "/" + t.Name() + "/children")
		if errors.Is(err, os.ErrNotExist) {
			if _, serr := os.Stat(tasks + "/" + t.Name()); serr == nil {
				return nil, err // this kernel has no such file
			}
		}
		for _, w := range strings.Fields(string(raw)) {
			out = append(out, atoi(w))
		}
	}
	return out, nil
}

// byParent lists the processes below pid by the parent that each names.
func byParent(pid int) []int {
	parent := map[int]int{}
	dir, _ := os.ReadDir("/proc")
	for _, d := range dir {
		p := atoi(d.Name())
		if p == 0 {
			continue
		}
		raw, _ := os.ReadFile("/proc/" + d.Name() + "/stat")
		if i := strings.LastIndexByte(string(raw), ')'); i > 0 {
			if w := strings.Fields(string(raw[i+1:])); len(w) > 1 {
				parent[p] = atoi(w[1])
			}
		}
	}
	var out []int
	for p := range parent {
		for up, hops := p, 0; up != 0 && hops < 1000; up, hops = parent[up], hops+1 {
			if parent[up] == pid {
				out = append(out, p)
				break
			}
		}
	}
	return out
}

// atoi reads a process id, 0 if s is none.
func atoi(s string) int {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' || n > 1<<30 {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}
