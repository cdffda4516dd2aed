package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A user is a command that uses a secret.
type user struct {
	use
	process int // a descriptor
	file    *os.File

	last, end time.Time
}

// find looks for the command among all processes, until it has used its secret.
func (u *user) find(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		all, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		for _, dir := range all {
			line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
			if err != nil || !strings.HasSuffix(string(line), "\x00"+u.File+"\x00") {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				return err
			}
			f, err := os.Open(filepath.Join(dir, "cwd", u.File))
			if err != nil {
				continue // not yet
			}
			if u.process, err = unix.PidfdOpen(pid, 0); err == nil {
				u.file = f
				return nil
			}
			f.Close()
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return fmt.Errorf("%s is not seen to use its secret: %w", u.File, err)
		}
	}
}

// await waits for the command's end.
func (u *user) await(ctx context.Context) error {
	for {
		over, err := ended(u.process, time.Second)
		if err != nil {
			return err
		}
		if over {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s has not ended: %w", u.File, ctx.Err())
		}
	}
	u.end = time.Now()
	info, err := u.file.Stat()
	if err == nil && info.Size() == 0 {
		err = errors.New("nothing was written to " + u.File)
	}
	if err == nil {
		u.last = info.ModTime()
	}
	return err
}

// ended waits for a process's end, for a time.
func ended(process int, most time.Duration) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(most.Milliseconds()))
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return n > 0, err
}
