package shim

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
)

// killTree kills all descendants, until empty is closed. A shim that cannot find them
// ends: then they are the tool runner's to kill.
func killTree(empty <-chan struct{}) {
	pause := time.NewTimer(time.Millisecond)
	defer pause.Stop()
	for {
		select {
		case <-empty:
			return
		default:
		}
		if os.Getpid() == 1 { // of a namespace: /proc is that of another
			_ = unix.Kill(-1, unix.SIGKILL)
		} else if _, err := killBelow(os.Getpid(), unix.EMFILE); err != nil {
			// It has so few descriptors that it never runs out of them, unless a command got
			// at its limit: it is no shim any more.
			os.Exit(confine.ExitSetup)
		}
		pause.Reset(time.Millisecond)
		select {
		case <-empty:
			return
		case <-pause.C:
		}
	}
}

// KillBelow stops all that there are below a process, then kills them, and returns
// which these were.
func KillBelow(pid int) (stopped []int, err error) { return killBelow(pid, nil) }

// killBelow stops each process when it finds it: so fewer and fewer compete with this one
// for processors, and what a stopped one has started is all that it will have.
func killBelow(below int, hopeless error) (stopped []int, err error) {
	for fresh, rounds := true, 0; fresh && rounds < 100; rounds++ { // a fork bomb makes new ones while it is being stopped
		fresh = false
		_, err := patiently(func() ([]int, error) {
			return descendants(below, func(pid int) {
				if !slices.Contains(stopped, pid) {
					unix.Kill(pid, unix.SIGSTOP)
					stopped = append(stopped, pid)
					fresh = true
				}
			})
		}, hopeless)
		if err != nil {
			return nil, err
		}
	}
	for _, pid := range stopped {
		unix.Kill(pid, unix.SIGKILL)
	}
	return stopped, nil
}

// For so long, and so often, nothing may be listed, for want of descriptors or memory say:
// what else there is in the sandbox ends with who gives up. Where processes are short of CPU
// time, one try may take all of the time.
const (
	listPatience = 2 * time.Second
	listTries    = 20
)

// Descendants lists the processes below pid. It fails rather than leave one out, and
// tries for some time before.
func Descendants(pid int) ([]int, error) {
	return patiently(func() ([]int, error) { return descendants(pid, func(int) {}) }, nil)
}

// patiently lists until that succeeds, its patience is at an end, or there is no hope.
func patiently(list func() ([]int, error), hopeless error) ([]int, error) {
	for began, tries := time.Now(), 1; ; time.Sleep(10 * time.Millisecond) {
		all, err := list()
		if err == nil || hopeless != nil && errors.Is(err, hopeless) || tries >= listTries && time.Since(began) >= listPatience {
			return all, err
		}
		tries++
	}
}

// descendants lists the processes below pid, each of which is found before its children are
// looked for.
func descendants(pid int, found func(int)) ([]int, error) {
	var out []int
	queue := []int{pid}
	for len(queue) > 0 {
		children, err := childrenOf(queue[0])
		if errors.Is(err, errNoChildren) {
			if out, err = byParent(pid); err != nil {
				return nil, err
			}
			for _, p := range out {
				found(p)
			}
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		for _, p := range children {
			found(p)
		}
		queue = append(queue[1:], children...)
		out = append(out, children...)
	}
	return out, nil
}

// errNoChildren reports a kernel that does not list the children of a thread.
var errNoChildren = errors.New("there are no lists of children")

// ended reports whether the process or thread that could not be read has ended.
func ended(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

func childrenOf(pid int) ([]int, error) {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	dir, err := os.ReadDir(tasks)
	if err != nil && !ended(err) {
		return nil, err
	}
	var out []int
	for _, t := range dir {
		raw, err := os.ReadFile(tasks + "/" + t.Name() + "/children")
		if errors.Is(err, unix.ENOENT) {
			if _, serr := os.Stat(tasks + "/" + t.Name()); serr == nil {
				return nil, errNoChildren
			}
		}
		if err != nil && !ended(err) {
			return nil, err
		}
		for _, w := range strings.Fields(string(raw)) {
			out = append(out, atoi(w))
		}
	}
	return out, nil
}

// byParent lists the processes below pid by the parent that each names.
func byParent(pid int) ([]int, error) {
	parent := map[int]int{}
	dir, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, d := range dir {
		p := atoi(d.Name())
		if p == 0 {
			continue
		}
		raw, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil && !ended(err) {
			return nil, err
		}
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
	return out, nil
}

// StateOf returns the letter for what a process does, '-' if it has ended.
func StateOf(pid int) rune { return stateOf(strconv.Itoa(pid)) }

func stateOf(task string) rune {
	raw, err := os.ReadFile("/proc/" + task + "/stat")
	if i := strings.LastIndexByte(string(raw), ')'); err == nil && i > 0 && i+2 < len(raw) {
		return rune(raw[i+2])
	}
	if err != nil && !ended(err) {
		return '?'
	}
	return '-'
}

// runnable reports whether a thread of a process has work to do: all that it lacks, if it does
// none, is a processor.
func runnable(pid int) bool {
	tasks := fmt.Sprintf("%d/task/", pid)
	dir, _ := os.ReadDir("/proc/" + tasks) // of none that has ended
	return slices.ContainsFunc(dir, func(t os.DirEntry) bool { return stateOf(tasks+t.Name()) == 'R' })
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
