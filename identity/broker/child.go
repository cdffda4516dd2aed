package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/brokerlink"
)

// Child serves the worker that has started this process as its broker, until the worker
// has gone. It is for package worker/bootstrap.
func Child(ctx context.Context, configure func(context.Context) (Config, error)) error {
	if err := harden(); err != nil {
		return err
	}
	conn, err := brokerlink.Inherited()
	if err != nil {
		return fmt.Errorf("broker: the worker's connection: %w", err)
	}
	defer conn.Close()
	setup, err := brokerlink.ReadSetup(os.Stdin)
	if err != nil {
		return err
	}
	cfg, err := configure(ctx)
	if err != nil {
		return err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if cfg.Pool == nil {
		c, err := setup.Config()
		if err != nil {
			return err
		}
		if cfg.Pool, err = pgxpool.NewWithConfig(ctx, c); err != nil {
			return fmt.Errorf("broker: the worker's database: %w", err)
		}
		defer cfg.Pool.Close()
	}
	if cfg.Schema == "" {
		cfg.Schema = setup.Schema
	}
	b, err := open(ctx, cfg)
	if away(err) {
		return errors.Join(err, brokerlink.Waiting(conn))
	}
	if err != nil {
		return err
	}
	b.parent = &standing{identity.L1Dev, "the broker is a child of its worker"}
	if c, ok := conn.(*net.UnixConn); ok {
		if u, err := peer(c); err == nil {
			*b.parent = b.stands(u)
		}
	}
	if err := brokerlink.Serving(conn); err != nil {
		return nil // it has gone
	}
	return b.serve(ctx, &only{conn: conn, gone: make(chan struct{})})
}

// away reports that the database cannot be reached, or not yet; not that it does not let the broker in.
func away(err error) bool {
	if said, ok := errors.AsType[*pgconn.PgError](err); ok {
		return slices.Contains([]string{"08", "53", "57"}, said.Code[:2])
	}
	_, unreached := errors.AsType[*pgconn.ConnectError](err)
	return unreached
}
