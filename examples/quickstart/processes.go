package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/worker"
)

// processes are workers in processes of their own, by name.
type processes struct{ all map[string]*process }

type process struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	wanted atomic.Bool // its end is
	ended  chan struct{}
}

// workerCommand is the argument that makes this program a worker.
const workerCommand = "worker"

// startProcesses starts this program again, as a worker, once per name.
func startProcesses(s workerSetup, names ...string) (*processes, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &processes{all: make(map[string]*process)}
	for _, name := range names {
		args := []string{workerCommand, "-name", name, "-schema", s.db.schema, "-backend", s.sandboxes.backend, "-image", s.sandboxes.image}
		if s.verbose {
			args = append(args, "-v")
		}
		cmd := exec.Command(self, args...)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+s.db.server.URL) // no argument: it may hold a password
		cmd.Stdout, cmd.Stderr = s.logs, s.logs
		stdin, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			p.stop()
			return nil, err
		}
		child := &process{cmd: cmd, stdin: stdin, ended: make(chan struct{})}
		p.all[name] = child
		go func() {
			defer close(child.ended)
			if _ = cmd.Wait(); !child.wanted.Load() {
				s.fail(fmt.Errorf("%s ended by itself (%v): its last words are above", name, cmd.ProcessState))
			}
		}()
	}
	return p, nil
}

// kill ends a worker with SIGKILL, and returns when it is gone.
func (p *processes) kill(name string) error {
	child := p.all[name]
	if child == nil {
		return fmt.Errorf("%s is no process of ours", name)
	}
	child.wanted.Store(true)
	if err := child.cmd.Process.Kill(); err != nil {
		return err
	}
	<-child.ended
	return nil
}

// stop lets the workers drain and end.
func (p *processes) stop() {
	for _, child := range p.all {
		child.wanted.Store(true)
		child.stdin.Close()
	}
	late := time.NewTimer(drain + 10*time.Second)
	defer late.Stop()
	for _, child := range p.all {
		select {
		case <-child.ended:
			continue
		case <-late.C:
			late.Reset(0)
		}
		child.cmd.Process.Kill()
		<-child.ended
	}
}

// runWorker is the main of a worker process. It ends on a signal, and when its
// standard input does, which is when the process that started it is gone.
func runWorker(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("quickstart worker", flag.ContinueOnError)
	name := flags.String("name", "", "`name` of the worker")
	schema := flags.String("schema", "", "`schema` of Stepward's tables in DATABASE_URL")
	verbose := flags.Bool("v", false, "show the worker's log")
	var sandboxes sandboxOptions
	sandboxes.register(flags)
	if err := flags.Parse(args); err != nil {
		return errors.Join(errUsage, err)
	}
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	return worker.Run(ctx, workerConfig(pool, *schema, *name, sandboxes, os.Stderr, *verbose))
}
