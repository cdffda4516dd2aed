package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stepward/stepward/internal/runner"
)

// errPermanent is an error that says that trying again is no use.
type errPermanent struct{ after time.Duration }

func (errPermanent) Error() string               { return "it cannot work" }
func (errPermanent) Permanent() bool             { return true }
func (e errPermanent) RetryAfter() time.Duration { return e.after }

// guest has a step for each way in which a step can end.
func guest(ctx context.Context, r runner.GuestRequest) ([]byte, error) {
	switch r.Step {
	case "echo":
		return append([]byte(fmt.Sprintf("%s/%s/%s/%d/%s:", r.Workflow, r.Version, r.RunID, r.Attempt, r.IdempotencyKey)), r.Input...), nil
	case "nothing":
		return nil, nil
	case "error":
		return nil, errors.New("no luck")
	case "permanent":
		return nil, fmt.Errorf("wrapped: %w", errPermanent{3 * time.Second})
	case "panic":
		panic("boom")
	case "exit":
		fmt.Fprintln(os.Stderr, "leaving")
		os.Exit(7)
	case "exit0":
		os.Exit(0)
	case "pid":
		return []byte(fmt.Sprint(os.Getpid())), nil
	case "secret": // what it has, and what a child of it has
		name, file, _ := strings.Cut(string(r.Input), " ")
		child, err := exec.Command("/proc/self/exe", verbPrefix+"getenv", name, file).Output()
		if err != nil {
			return nil, err
		}
		return fmt.Appendf(nil, "%s %s|%s", hashed([]byte(os.Getenv(name))), secretFile(os.Getenv(file)), child), nil
	case "environ":
		return []byte(strings.Join(os.Environ(), "\n")), nil
	case "print":
		line := bytes.Repeat([]byte("0123456789abcde\n"), 4096)
		mib, err := strconv.Atoi(string(r.Input))
		if err != nil {
			return nil, err
		}
		for range mib << 20 / len(line) {
			if _, err := os.Stdout.Write(line); err != nil {
				return nil, err
			}
		}
		return []byte("printed"), nil
	case "fork":
		c := exec.Command("/proc/self/exe", verbPrefix+"hang")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		c.Stdout, c.Stderr = os.Stdout, os.Stderr // which keeps the pipes open
		return []byte("forked"), c.Start()
	case "bomb": // until no more can be started
		for n := 0; ; n++ {
			c := exec.Command("/proc/self/exe", verbPrefix+"hang")
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := c.Start(); err != nil {
				return nil, fmt.Errorf("after %d processes: %w", n, err)
			}
		}
	case "shows": // whether it may append
		r.Beat([]byte("1"))
		if err := r.Outlet.Progress("done", []byte("2")); err != nil {
			return nil, err
		}
		err := r.Outlet.Append(ctx, "lines", []byte("3"))
		return []byte(fmt.Sprint(err)), nil
	case "memory": // more than the suite gives
		return bytes.Repeat([]byte("x"), 512<<20), nil
	case "stubborn":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		_ = os.WriteFile("stubborn", nil, 0o600) // which fails where nothing can be written
		fmt.Println("it runs")
		for {
			time.Sleep(time.Hour)
		}
	case "count", "count-once":
		return count(ctx, r)
	case "deadline":
		d, ok := ctx.Deadline()
		return []byte(fmt.Sprint(ok && time.Until(d) > 0)), nil
	}
	return nil, fmt.Errorf("no step %s", r.Step)
}

// count appends the numbers up to its first input to stream numbers, each filled up to as
// many bytes as the second says, and returns how often it was begun in this sandbox,
// and with which attempt.
func count(ctx context.Context, r runner.GuestRequest) ([]byte, error) {
	var n, size int
	if _, err := fmt.Sscanf(string(r.Input), "[%d,%d]", &n, &size); err != nil {
		return nil, err
	}
	f, err := os.OpenFile("begun", os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.WriteString("x"); err != nil {
		return nil, err
	}
	for i := range n {
		value := fmt.Sprintf("%-*d", size, i+1)
		if err := r.Outlet.Append(ctx, "numbers", fmt.Appendf(nil, "%q", value)); err != nil {
			return nil, err
		}
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `"begun %d, attempt %d"`, fi.Size(), r.Attempt), nil
}
