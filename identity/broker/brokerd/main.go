// Command brokerd is the broker of secrets as a service, for workers whose worker.Config.Broker names it.
//
//	brokerd -database postgres://broker@db/app -socket /run/brokerd/socket -peers stepward -files /var/lib/brokerd/secrets
//	brokerd -database postgres://broker@db/app -listen :7443 -cert c.pem -key k.pem -ca workers.pem -names worker.example.com -vault https://vault:8200 -vault-token-file /run/vault/token
//	brokerd -files /var/lib/brokerd/secrets put acme deploy-token < token
//
// Each flag may be said by the environment: -vault-token-file by BROKERD_VAULT_TOKEN_FILE. SIGTERM has it
// answer what it was asked, and end. See docs/broker.md.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "brokerd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader) error {
	o, err := parse(args, os.LookupEnv)
	if err != nil {
		return err
	}
	if o.put != nil {
		return put(ctx, o, in)
	}
	pool, err := pgxpool.New(ctx, o.database)
	if err != nil {
		return err
	}
	defer pool.Close()
	cfg, err := o.config()
	if err != nil {
		return err
	}
	cfg.Pool = pool
	return serve(ctx, o, cfg)
}

// serve opens all doors, and returns when ctx is done and calls are answered, or one has failed.
func serve(ctx context.Context, o options, cfg broker.Config) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var doors []func() error
	if o.socket != "" {
		ln, err := listen(o.socket)
		if err != nil {
			return err
		}
		defer func() { _ = ln.Close() }()
		doors = append(doors, func() error { return broker.Serve(ctx, ln, cfg) })
		slog.Info("serving", "socket", o.socket, "peers", cfg.Peers)
	}
	if o.listen != "" {
		ln, err := net.Listen("tcp", o.listen)
		if err != nil {
			return err
		}
		defer func() { _ = ln.Close() }()
		doors = append(doors, func() error { return broker.Serve(ctx, ln, cfg) })
		slog.Info("serving", "address", ln.Addr().String())
	}
	if o.health != "" {
		ln, err := net.Listen("tcp", o.health)
		if err != nil {
			return err
		}
		srv := &http.Server{Handler: health(cfg.Pool), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second}
		defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
		doors = append(doors, func() error {
			if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		slog.Info("health", "url", "http://"+ln.Addr().String()+"/healthz")
	}
	errs := make([]error, len(doors))
	var open sync.WaitGroup
	for i, door := range doors {
		open.Go(func() {
			defer stop()
			errs[i] = door()
		})
	}
	open.Wait()
	return errors.Join(errs...)
}

// listen makes a unix socket, in the place of one that nobody serves. Who may call there the broker asks the
// kernel.
func listen(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		c, err := net.Dial("unix", path)
		switch {
		case err == nil:
			c.Close()
			return nil, fmt.Errorf("another broker serves %s", path)
		case !errors.Is(err, syscall.ECONNREFUSED): // as of one that is busy
			return nil, fmt.Errorf("whether another broker serves %s is not known: %w", path, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// health answers whether the broker could do its work.
func health(pool *pgxpool.Pool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := pool.Ping(ctx); err != nil {
			http.Error(w, "Postgres does not answer", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// put stores what it reads.
func put(ctx context.Context, o options, in io.Reader) error {
	value, err := io.ReadAll(io.LimitReader(in, broker.MaxValue+1))
	if err != nil {
		return err
	}
	defer clear(value)
	s, err := filestore.Open(o.fileStore())
	if err != nil {
		return err
	}
	version, err := s.Put(ctx, o.put[0], o.put[1], value)
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	fmt.Println("version", version)
	if bytes.HasSuffix(value, []byte("\n")) {
		fmt.Fprintln(os.Stderr, "brokerd: the value ends with a line break, which a step gets as part of it")
	}
	return nil
}
