// Package devdb finds a Postgres for examples and tests, without set-up.
//
// [Open] tries, in this order:
//
//   - the server that DATABASE_URL names, if it is set. If that one cannot be
//     used, Open fails: somebody asked for it, so nothing else is taken;
//   - Postgres programs on this machine, run as a private throw-away cluster
//     under an unprivileged user, on a Unix socket;
//   - a container, through testcontainers-go;
//   - programs downloaded by fergusstrange/embedded-postgres, run like those of
//     this machine.
//
// # Sharing
//
// All processes of a user share one cluster (or container), so that go test,
// which runs a process per package, starts one server and not twenty. It lives
// as long as somebody holds it: the kernel notices the end of a holder however
// it dies, because a hold is an open descriptor (of a named pipe, or of a
// connection for a container), and a small shell process stops the server and
// removes its files once the last descriptor is gone.
//
// # What it is not for
//
// The cluster runs with fsync off. It survives the death of any process that
// uses it, but not that of the machine, and it must hold nothing of value.
package devdb

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Way is one way to get a Postgres.
type Way string

// The ways, in the order in which [Open] tries them.
const (
	WayURL      Way = "DATABASE_URL"
	WayLocal    Way = "local programs"
	WayDocker   Way = "container"
	WayEmbedded Way = "download"
)

// Config configures [Open]. Its zero value is what examples and tests use.
type Config struct {
	// Ways are the ways to try, in order. Defaults to all of them.
	Ways []Way

	// Dir is where the shared cluster keeps its files. Processes with the
	// same Dir share one. Defaults to a folder in the temporary directory
	// named after the user.
	Dir string

	// Image is the image of the container. It must have initdb, postgres,
	// psql and a user postgres. Defaults to $STEPWARD_POSTGRES_IMAGE, else
	// to [DefaultImage].
	Image string

	// Repository is the Maven repository with the programs to download.
	// Defaults to $STEPWARD_POSTGRES_REPOSITORY, else to Maven Central.
	Repository string

	// CacheDir keeps downloaded archives. Defaults to the user's cache.
	CacheDir string

	// Settings override those of the server ("fsync=on"). They matter to the
	// process that starts a cluster: give it a Dir of its own. A container
	// has no use for them.
	Settings []string
}

// DefaultImage is the image that [WayDocker] takes.
const DefaultImage = "postgres:17"

// user and database of the servers that this package starts.
const (
	userName     = "stepward"
	databaseName = "postgres"
)

// startTimeout bounds the wait for a server that this package starts.
const startTimeout = time.Minute

// A DB is a hold on a Postgres server. It may be used from any goroutine. Keep
// it reachable until its end, or call Close.
type DB struct {
	// URL is the connection string, with its password. Other processes may
	// use it for as long as this hold lasts.
	URL string

	// Source is a line for a person that says which Postgres this is.
	Source string

	// Way is the way that led here.
	Way Way

	release func()
}

// Close gives up the hold. A server that was started for it stops once all
// holds are gone; Close does not wait for that. Calling it again does nothing.
func (db *DB) Close() {
	if release := db.release; release != nil {
		db.release = nil
		release()
	}
}

// Open returns a hold on a Postgres server whose user may create schemas and
// databases. Close it when done; if the process dies first, the kernel does.
//
// The error is an [*UnavailableError] if no way worked.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	ways := cfg.Ways
	if ways == nil {
		ways = []Way{WayURL, WayLocal, WayDocker, WayEmbedded}
		if os.Getenv("DATABASE_URL") != "" {
			ways = ways[:1]
		}
	}
	if cfg.Dir == "" {
		cfg.Dir = defaultDir()
	}
	failed := &UnavailableError{}
	for _, way := range ways {
		db, err := open(ctx, way, cfg)
		if err == nil {
			db.Way = way
			return db, nil
		}
		failed.Tried = append(failed.Tried, Attempt{Way: way, Err: err})
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

func open(ctx context.Context, way Way, cfg Config) (*DB, error) {
	switch way {
	case WayURL:
		return openURL(ctx)
	case WayLocal:
		return openLocal(ctx, cfg)
	case WayDocker:
		return openContainer(ctx, cfg)
	case WayEmbedded:
		return openEmbedded(ctx, cfg)
	}
	return nil, fmt.Errorf("unknown way %q", way)
}

// openURL takes the server of DATABASE_URL.
func openURL(ctx context.Context) (*DB, error) {
	dsn := os.Getenv("DATABASE_URL")
	if dsn == "" {
		return nil, errNotSet
	}
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err // pgx leaves the password out
	}
	version, err := serverVersion(ctx, dsn)
	if err != nil {
		return nil, err
	}
	return &DB{
		URL:    dsn,
		Source: fmt.Sprintf("Postgres %s at %s, from DATABASE_URL", version, cfg.Host),
	}, nil
}

// serverVersion connects, which shows that the server takes statements, and
// returns its version without the packager's suffix.
func serverVersion(ctx context.Context, dsn string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	var version string
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version')").Scan(&version); err != nil {
		return "", err
	}
	version, _, _ = strings.Cut(version, " ")
	return version, nil
}

// socketURL is the connection string of a cluster that listens in dir.
func socketURL(dir, password string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(userName, password),
		Path:     "/" + databaseName,
		RawQuery: url.Values{"host": {dir}, "sslmode": {"disable"}}.Encode(),
	}
	return u.String()
}

// defaultDir is short, because the path of a Unix socket may have some 100 bytes only.
func defaultDir() string {
	name := fmt.Sprintf("stepward-devdb-%d", os.Getuid())
	dir := filepath.Join(os.TempDir(), name)
	// Root's own temporary directory may be closed to the server's user.
	if os.Getuid() == 0 || (os.Getuid() > 0 && len(dir) > 70) {
		dir = filepath.Join("/tmp", name)
	}
	return dir
}
