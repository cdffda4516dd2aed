package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// A scene is a row: a worker process and its broker, in a schema of their own, and what holds secrets.
type scene struct {
	trouble  int
	pool     *pgxpool.Pool // not the worker's
	backend  sandbox.Backend
	schema   string
	profiles *identity.Profiles
	worker   *process
	orders   io.Writer // the worker's
	users    []*user
	row      []string // of the table
	closers  []func()

	broker, postgres *wire // from the worker; and from the broker to Postgres

	mu    sync.Mutex
	heard map[string]time.Time // when attempts were over, as the worker says
}

// secretOf is a store.
type secretOf struct{ value string }

func (s secretOf) Get(context.Context, broker.Request) (broker.Value, error) {
	return broker.Value{Bytes: []byte(s.value), Version: "1"}, nil
}

// begin returns when everything uses its secret.
func (s *scene) begin(ctx context.Context, b *bench, n int) (err error) {
	schema, drop, err := b.cluster.newSchema(ctx)
	if err != nil {
		return err
	}
	s.schema, s.closers = schema, append(s.closers, drop)
	dir, err := os.MkdirTemp("", "bench") // short: it holds sockets
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { os.RemoveAll(dir) })
	url, err := s.wirePostgres(b.cluster.URL, dir)
	if err != nil {
		return err
	}
	address, err := s.serve(ctx, b, url, dir)
	if err != nil {
		return err
	}
	if s.profiles, err = identity.New(s.pool, identity.Options{Schema: schema}); err != nil {
		return err
	}
	command, _ := userOf(s.backend.Name())
	err = s.profiles.Put(ctx, identity.Profile{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{
		"USUAL":  {Ref: "bench://usual", Commands: []string{filepath.Base(command)}},
		"STRICT": {Ref: "bench://strict", Commands: []string{filepath.Base(command)}, Strict: true},
	}})
	if err != nil {
		return err
	}
	if err := s.startWorker(ctx, url, b.runner.Path, address); err != nil {
		return err
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: s.pool, Schema: schema, Logger: b.log})
	if err != nil {
		return err
	}
	for i := range 2 * n {
		u := &user{use: use{File: fmt.Sprintf("%s-%d", schema, i), Strict: i%2 == 1}}
		if i > 0 {
			if err := pause(ctx, renewal/time.Duration(2*n)); err != nil {
				return err
			}
		}
		if _, err := uses.Enqueue(ctx, client, u.use, workflow.EnqueueOptions{Tenant: "acme"}); err != nil {
			return err
		}
		if err := u.find(ctx); err != nil {
			return err
		}
		s.users = append(s.users, u)
	}
	return nil
}

// wirePostgres returns an address of Postgres that can go away.
func (s *scene) wirePostgres(url, dir string) (string, error) {
	s.closers = append(s.closers, s.postgres.end)
	if !troubles[s.trouble].after {
		return url, nil
	}
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return "", err
	}
	err = s.postgres.listen(filepath.Join(dir, ".s.PGSQL.5432"), func() (net.Conn, error) {
		network, address := pgconn.NetworkAddress(cfg.Host, cfg.Port)
		return net.Dial(network, address)
	})
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace
	return fmt.Sprintf("host='%s' port=5432 user='%s' password='%s' dbname='%s' sslmode=disable", dir, quote(cfg.User), quote(cfg.Password), quote(cfg.Database)), err
}

// serve starts a broker, in this process, and returns where it is.
func (s *scene) serve(ctx context.Context, b *bench, url, dir string) (address string, err error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return "", err
	}
	s.closers = append(s.closers, pool.Close)
	path := filepath.Join(dir, "broker")
	ln, err := net.Listen("unix", path)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- broker.Serve(ctx, ln, broker.Config{
			Pool: pool, Schema: s.schema, Dir: filepath.Join(dir, "key"), Logger: b.log, Stores: map[string]broker.Store{"bench": secretOf{rand.Text()}},
		})
	}()
	s.closers = append(s.closers, s.broker.end, func() { cancel(); <-done }) //nolint:errcheck // without it nothing was measured
	front := filepath.Join(dir, "wire")
	return "unix://" + front, s.broker.listen(front, func() (net.Conn, error) { return net.Dial("unix", path) })
}

// startWorker starts the process, and writes down what it says.
func (s *scene) startWorker(ctx context.Context, url, program, broker string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, argUses, s.schema, s.backend.Name(), program, broker)
	cmd.Env = append(os.Environ(), envURL+"="+url)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.worker, s.orders = &process{cmd: cmd, stdin: stdin}, stdin
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			file, at, _ := strings.Cut(lines.Text(), " ")
			if ns, err := strconv.ParseInt(at, 10, 64); err == nil {
				s.mu.Lock()
				s.heard[file] = time.Unix(0, ns)
				s.mu.Unlock()
			}
		}
	}()
	s.closers = append(s.closers, func() {
		_ = cmd.Process.Kill() // it may be stopped
		<-read
		s.worker.end()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		left, _ := s.backend.List(ctx, s.schema)
		for _, l := range left {
			_ = s.backend.Destroy(ctx, l.ID)
		}
	})
	return nil
}

func (s *scene) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
	for _, u := range s.users {
		if u.file != nil {
			u.file.Close()
			_ = syscall.Close(u.process)
		}
	}
}
