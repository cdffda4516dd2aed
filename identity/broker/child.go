package broker

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

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
	if err != nil {
		return err
	}
	b.child = true
	if err := brokerlink.Serving(conn); err != nil {
		return nil // it has gone
	}
	return b.serve(ctx, &only{conn: conn, gone: make(chan struct{})})
}
