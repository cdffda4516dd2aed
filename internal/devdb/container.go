package devdb

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
)

// containerScript runs in the container, which has no named pipe to this
// machine. There a hold is a connection with holdName.
//
//go:embed container.sh
var containerScript string

const (
	holdName     = "stepward-devdb-hold"
	passwordEnv  = "STEPWARD_DEVDB_PASSWORD"
	postgresPort = "5432/tcp"
)

// openContainer joins the container of this user, or starts it.
//
// All processes of a test session ask testcontainers for the same container,
// so each of them is a client of its reaper as well. The container does not
// depend on the reaper, which may be switched off: without a hold it ends, and
// the engine removes it.
func openContainer(ctx context.Context, cfg Config) (*DB, error) {
	if cfg.Image == "" {
		cfg.Image = os.Getenv("STEPWARD_POSTGRES_IMAGE")
	}
	if cfg.Image == "" {
		cfg.Image = DefaultImage
	}
	deadline := time.Now().Add(startTimeout)
	for {
		db, err := joinContainer(ctx, cfg.Image)
		if err == nil || ctx.Err() != nil || !errors.Is(err, errEnding) || time.Now().After(deadline) {
			return db, err
		}
	}
}

// errEnding reports that a container of the right name is about to be removed.
var errEnding = errors.New("the container is ending")

func joinContainer(ctx context.Context, image string) (*DB, error) {
	quiet := log.New(io.Discard, "", 0)
	c, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		ContainerRequest: testcontainers.ContainerRequest{
			Image:        image,
			Name:         containerName(),
			Entrypoint:   []string{"/bin/sh", "-c", containerScript},
			Cmd:          []string{"stepward-devdb"},
			Env:          map[string]string{passwordEnv: rand.Text()},
			ExposedPorts: []string{postgresPort},
			ConfigModifier: func(c *container.Config) {
				c.User = "postgres"
			},
			HostConfigModifier: func(c *container.HostConfig) {
				c.AutoRemove = true
				if engineIsLocal(ctx) {
					c.PortBindings = loopbackOnly()
				}
			},
		},
		Started: true,
		Reuse:   true,
		Logger:  quiet,
	})
	if err != nil {
		return nil, firstLine(err)
	}
	// The container may be another process's, with that one's password.
	info, err := c.Inspect(ctx)
	if err != nil {
		return nil, errors.Join(errEnding, err)
	}
	var password string
	for _, env := range info.Config.Env {
		if value, ok := strings.CutPrefix(env, passwordEnv+"="); ok {
			password = value
		}
	}
	host, err := c.Host(ctx)
	if err != nil {
		return nil, err
	}
	port, err := c.MappedPort(ctx, postgresPort)
	if err != nil {
		return nil, errors.Join(errEnding, err)
	}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(userName, password),
		Host:     net.JoinHostPort(host, port.Port()),
		Path:     "/" + databaseName,
		RawQuery: "sslmode=disable",
	}
	return holdContainer(ctx, c, u.String(), info.Config.Image)
}

// holdContainer waits until the server takes connections and opens the one
// that is the hold.
func holdContainer(ctx context.Context, c testcontainers.Container, dsn, image string) (*DB, error) {
	connCfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	connCfg.RuntimeParams["application_name"] = holdName
	deadline := time.Now().Add(startTimeout)
	for {
		conn, err := pgx.ConnectConfig(ctx, connCfg)
		if err == nil {
			version, _, _ := strings.Cut(conn.PgConn().ParameterStatus("server_version"), " ")
			return &DB{
				URL:    dsn,
				Source: fmt.Sprintf("Postgres %s in a throw-away container of image %s", version, image),
				release: func() { //nolint:contextcheck // the hold outlives the context of Open
					ctx, cancel := context.WithTimeout(context.Background(), time.Second)
					defer cancel()
					_ = conn.Close(ctx) // closed either way
				},
			}, nil
		}
		state, stateErr := c.State(ctx)
		if stateErr != nil || !state.Running {
			return nil, errors.Join(errEnding, stateErr, err)
		}
		if time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// containerName is the same for all processes of a test session.
func containerName() string {
	return fmt.Sprintf("stepward-devdb-%.16s", testcontainers.SessionID())
}

// engineIsLocal reports whether loopback of the engine's host is that of this process.
func engineIsLocal(ctx context.Context) bool {
	provider, err := testcontainers.NewDockerProvider(testcontainers.WithLogger(log.New(io.Discard, "", 0)))
	if err != nil {
		return false
	}
	defer provider.Close()
	host, err := provider.DaemonHost(ctx)
	return err == nil && host == "localhost"
}

func loopbackOnly() network.PortMap {
	return network.PortMap{
		network.MustParsePort(postgresPort): []network.PortBinding{{HostIP: netip.MustParseAddr("127.0.0.1")}},
	}
}

// firstLine keeps the error's chain, and cuts what testcontainers puts below it.
func firstLine(err error) error {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return &shortError{line, err}
}

type shortError struct {
	text string
	err  error
}

func (e *shortError) Error() string { return e.text }

func (e *shortError) Unwrap() error { return e.err }
