package testenv

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PgBouncer starts a pooler in transaction mode before a database,
// with so many connections to it, and returns its connection string. It ends
// with the test.
func PgBouncer(t testing.TB, database string, conns int) string {
	t.Helper()
	path, err := pgbouncer()
	if err != nil {
		Skip(t, PartPgBouncer, err.Error())
	}
	server, err := pgx.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "stepward-pgbouncer-") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	config := fmt.Sprintf(`[databases]
* = host=%s port=%d user=%s password=%s dbname=%s
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %s
auth_type = any
pool_mode = transaction
default_pool_size = %d
max_client_conn = 500
ignore_startup_parameters = extra_float_digits, application_name
`, quote(server.Host), server.Port, quote(server.User), quote(server.Password), quote(server.Database), dir, conns)
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil { //nolint:gosec // the pooler reads it as another user
		t.Fatal(err)
	}
	args := []string{"-q", file}
	if os.Getuid() == 0 { // it refuses to be root
		const nobody = 65534
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"-u", "nobody"}, args...)
	}
	cmd := exec.Command(path, args...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		if err := <-ended; err == nil {
			t.Log("pgbouncer ended by itself")
		}
	})
	pooler := url.URL{Scheme: "postgres", User: url.User("anybody"), Path: "/" + server.Database,
		RawQuery: url.Values{"host": {dir}, "port": {strconv.Itoa(6432)}, "sslmode": {"disable"}}.Encode()}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(t.Context(), pooler.String())
		if err == nil {
			conn.Close(t.Context())
			return pooler.String()
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("pgbouncer: %v: %s", err, log.String())
		case <-t.Context().Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

func pgbouncer() (string, error) {
	const sbin = "/usr/sbin/pgbouncer" // not in an ordinary user's PATH on Debian
	name := "pgbouncer"
	if _, err := os.Stat(sbin); err == nil {
		name = sbin
	}
	return program("STEPWARD_PGBOUNCER", name, "apt-get install pgbouncer")
}
