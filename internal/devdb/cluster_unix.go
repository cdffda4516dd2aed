//go:build unix

package devdb

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A cluster is a folder c-* in the shared folder:
//
//	hold     named pipe; each holder keeps it open for writing
//	ack/     one file per holder that the guardian has seen
//	url      connection string, mode 0600
//	source   the line for a person
//	pg/      belongs to the server's user: data/, log, socket
//
// Two shells belong to it. The guardian comes first, and reads the pipe. It
// meets end of file once no holder is left, lets the server stop, and removes
// the folder, and the shared one if that is empty then. The runner, under the
// server's user, is the parent of the server, which it stops when the guardian
// lets go of a pipe between them, or dies.
type cluster struct{ dir string }

const (
	ackTimeout = 10 * time.Second
	pollEvery  = 10 * time.Millisecond
)

// errGone reports that a cluster has ended, or is about to.
var errGone = errors.New("the cluster has ended")

// errFolderGone reports that the shared folder was removed by its last user.
var errFolderGone = errors.New("the shared folder has been removed")

// joinCluster joins the cluster in cfg.Dir that runs, or starts one with the
// programs in the folder that bin returns. bin may put them into the cluster's
// own folder, which it is given.
func joinCluster(ctx context.Context, cfg Config, bin func(clusterDir string) (string, error)) (*DB, error) {
	for {
		db, err := joinLocked(ctx, cfg, bin)
		if !errors.Is(err, errFolderGone) {
			return db, err
		}
	}
}

func joinLocked(ctx context.Context, cfg Config, bin func(string) (string, error)) (*DB, error) {
	f, err := lockFolder(ctx, cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer f.unlock()

	present, err := filepath.Glob(filepath.Join(f.dir, "c-*"))
	if err != nil {
		return nil, err
	}
	if !f.is() {
		return nil, errFolderGone // so what is there may be in the making
	}
	for _, path := range present {
		db, err := cluster{path}.attach(ctx)
		if err == nil {
			return db, nil
		}
		if errors.Is(err, errGone) {
			// Nobody reads its pipe, so its guardian is not there to do this.
			_ = os.RemoveAll(path)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	c := cluster{filepath.Join(f.dir, "c-"+strings.ToLower(rand.Text()[:8]))}
	if err := mkdir(c.dir, 0o711); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if !f.is() { // and from here on it is, because it is not empty
		_ = os.RemoveAll(c.dir)
		return nil, errFolderGone
	}
	return c.start(ctx, cfg.Settings, bin)
}

// attach adds a hold to a running cluster.
func (c cluster) attach(ctx context.Context) (*DB, error) {
	release, err := c.hold()
	if err != nil {
		return nil, err
	}
	db, err := c.describe()
	if err == nil {
		_, err = serverVersion(ctx, db.URL) // it may have been killed under its guardian
	}
	if err != nil {
		release()
		return nil, err
	}
	db.release = release
	return db, nil
}

// hold opens the pipe and waits until the guardian has read from it. From then
// on the guardian cannot meet end of file before release is called.
func (c cluster) hold() (release func(), err error) {
	// Not an os.File, which the garbage collector would close when a caller
	// keeps the URL and drops the DB.
	fd, err := unix.Open(filepath.Join(c.dir, "hold"), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT) {
		return nil, errGone
	}
	if err != nil {
		return nil, err
	}
	release = func() { _ = unix.Close(fd) }
	name := rand.Text()
	if _, err := unix.Write(fd, []byte(name+"\n")); err != nil {
		release()
		return nil, fmt.Errorf("hold the cluster: %w", err)
	}
	ack := filepath.Join(c.dir, "ack", name)
	for deadline := time.Now().Add(ackTimeout); time.Now().Before(deadline); time.Sleep(pollEvery) {
		if os.Remove(ack) == nil {
			return release, nil
		}
		if _, err := os.Stat(c.dir); err != nil {
			break
		}
	}
	release()
	return nil, fmt.Errorf("the guardian of %s does not answer", c.dir)
}

// describe reads what the starter left for others.
func (c cluster) describe() (*DB, error) {
	url, err := os.ReadFile(filepath.Join(c.dir, "url"))
	if err != nil {
		return nil, err
	}
	source, err := os.ReadFile(filepath.Join(c.dir, "source"))
	if err != nil {
		return nil, err
	}
	return &DB{URL: string(url), Source: string(source)}, nil
}

// start fills the cluster's folder, and starts the server.
func (c cluster) start(ctx context.Context, settings []string, findBin func(string) (string, error)) (_ *DB, err error) {
	acct, err := serverAccount()
	var release func()
	var theirs ends
	if err == nil {
		release, theirs, err = c.guard()
	}
	if err != nil {
		_ = os.RemoveAll(c.dir)
		return nil, err
	}
	defer theirs.close()
	defer func() {
		if err != nil {
			release() // the guardian stops what runs and removes the folder
		}
	}()
	pg := filepath.Join(c.dir, "pg")
	if err := errors.Join(mkdir(filepath.Join(c.dir, "ack"), 0o700), mkdir(pg, 0o711), acct.own(pg)); err != nil {
		return nil, err
	}
	bin, err := findBin(c.dir)
	if err != nil {
		return nil, err
	}
	password := rand.Text()
	if err := c.initdb(ctx, acct, bin, password, theirs.gone); err != nil {
		return nil, err
	}
	if err := c.launch(acct, bin, settings, theirs); err != nil {
		return nil, err
	}
	url := socketURL(pg, password)
	version, err := c.awaitReady(ctx, url)
	if err != nil {
		return nil, err
	}
	source := fmt.Sprintf("Postgres %s from %s, throw-away cluster of user %s", version, bin, acct.name)
	if err := errors.Join(
		os.WriteFile(filepath.Join(c.dir, "source"), []byte(source), 0o600),
		os.WriteFile(filepath.Join(c.dir, "url"), []byte(url), 0o600)); err != nil {
		return nil, err
	}
	return &DB{URL: url, Source: source, release: release}, nil
}

// initdb makes the data. The guardian waits for the end of gone, so that it
// removes nothing while somebody still writes, should this process die.
func (c cluster) initdb(ctx context.Context, acct account, bin, password string, gone *os.File) error {
	pg := filepath.Join(c.dir, "pg")
	pwfile := filepath.Join(pg, "pw")
	verifier, err := scramVerifier(password)
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(pwfile, []byte(verifier+"\n"), 0o600), acct.own(pwfile)); err != nil {
		return err
	}
	defer os.Remove(pwfile)
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"),
		"-D", filepath.Join(pg, "data"), "-U", userName, "-A", "scram-sha-256", "--pwfile", pwfile,
		"-E", "UTF8", "--locale", "C", "--no-sync")
	cmd.Dir, cmd.Env = pg, serverEnv()
	cmd.SysProcAttr = acct.attr()
	cmd.ExtraFiles = []*os.File{gone}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, lastLines(out, 3))
	}
	return nil
}

// scramVerifier is what Postgres stores of a password. Left to itself it has every
// client compute 4096 rounds, which add nothing to a password from [rand.Text] and
// take a program with the race detector longer than most statements.
func scramVerifier(password string) (string, error) {
	const rounds = 1
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	salted, err := pbkdf2.Key(sha256.New, password, salt, rounds, sha256.Size)
	if err != nil {
		return "", err
	}
	sum := func(name string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(name))
		return h.Sum(nil)
	}
	stored, text := sha256.Sum256(sum("Client Key")), base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", rounds, text(salt), text(stored[:]), text(sum("Server Key"))), nil
}

// runnerScript is started with: folder, folder of programs, options of the
// server. fd 3 ends when the guardian ends; the guardian waits for the end of
// fd 4. A throw-away cluster needs no shutdown checkpoint, hence SIGQUIT, which a
// server that is just starting ignores, hence again and again.
const runnerScript = `
pg=$1; bin=$2; shift 2
(
	"$bin/postgres" -D "$pg/data" -k "$pg" "$@" </dev/null >>"$pg/log" 2>&1 3<&- 4>&- &
	server=$!
	{ read -r _; while kill -QUIT "$server"; do sleep 0.1; done; } <&3 2>/dev/null &
	dog=$!
	wait "$server"
	: >"$pg/down"
	kill "$dog"
) </dev/null &
`

// serverOptions trade safety against a crash of the machine for speed.
var serverOptions = []string{
	"-c", "listen_addresses=",
	"-c", "unix_socket_permissions=0777", // the password guards it; tests run clients under other users
	"-c", "fsync=off",
	"-c", "full_page_writes=off",
	"-c", "max_connections=300",
	"-c", "max_locks_per_transaction=256", // dropping a schema locks all that is in it
	"-c", "max_wal_size=2GB",
	"-c", "timezone=UTC",
	"-c", "log_line_prefix=%m [%p] %a: ",
}

// launch starts the runner.
func (c cluster) launch(acct account, bin string, settings []string, theirs ends) error {
	pg := filepath.Join(c.dir, "pg")
	args := append([]string{"-c", runnerScript, "stepward-devdb", pg, bin}, serverOptions...)
	for _, s := range settings {
		args = append(args, "-c", s) // the last of a name counts
	}
	runner := exec.Command("/bin/sh", args...)
	runner.Dir, runner.Env, runner.SysProcAttr = pg, serverEnv(), acct.attr()
	runner.ExtraFiles = []*os.File{theirs.life, theirs.gone}
	if err := runner.Run(); err != nil {
		return fmt.Errorf("start the runner: %w", err)
	}
	return nil
}

// awaitReady returns the version once the server takes statements.
func (c cluster) awaitReady(ctx context.Context, url string) (string, error) {
	pg := filepath.Join(c.dir, "pg")
	deadline := time.Now().Add(startTimeout)
	for {
		version, err := serverVersion(ctx, url)
		if err == nil {
			return version, nil
		}
		if _, statErr := os.Stat(filepath.Join(pg, "down")); statErr == nil || time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(pg, "log"))
			return "", fmt.Errorf("the server does not start: %s", lastLines(log, 3))
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// mkdir makes a folder of that mode whatever the umask.
func mkdir(path string, mode os.FileMode) error {
	return errors.Join(os.Mkdir(path, mode), os.Chmod(path, mode))
}

// serverEnv keeps the PG* and locale variables of the user out.
func serverEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

func lastLines(text []byte, n int) string {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return string(bytes.Join(lines, []byte("; ")))
}
