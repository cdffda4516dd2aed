package devdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// openLocal runs the first Postgres of this machine that works.
func openLocal(ctx context.Context, cfg Config) (*DB, error) {
	dirs := binDirs()
	if len(dirs) == 0 {
		return nil, errors.New("initdb and postgres are neither in PATH nor in the usual places")
	}
	var errs []error
	for _, dir := range dirs {
		db, err := joinCluster(ctx, cfg, func(string) (string, error) { return dir, nil })
		if err == nil {
			return db, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", dir, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// binDirs lists the folders with both initdb and postgres: first that of
// PATH, then those of packagers, the newest version first.
func binDirs() []string {
	var dirs []string
	add := func(dir string) {
		dir, err := filepath.EvalSymlinks(dir)
		if err == nil && isExecutable(filepath.Join(dir, "initdb")) &&
			isExecutable(filepath.Join(dir, "postgres")) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if initdb, err = filepath.EvalSymlinks(initdb); err == nil {
			add(filepath.Dir(initdb))
		}
	}
	var packaged []string
	for _, pattern := range packagedDirs(runtime.GOOS) {
		found, _ := filepath.Glob(pattern) // only a bad pattern fails
		packaged = append(packaged, found...)
	}
	slices.SortStableFunc(packaged, func(a, b string) int { return majorOf(b) - majorOf(a) })
	for _, dir := range packaged {
		add(dir)
	}
	return dirs
}

func packagedDirs(goos string) []string {
	if goos == "darwin" {
		return []string{
			"/opt/homebrew/opt/postgresql@*/bin",
			"/usr/local/opt/postgresql@*/bin",
			"/Applications/Postgres.app/Contents/Versions/*/bin",
		}
	}
	return []string{
		"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
		"/usr/pgsql-*/bin",          // postgresql.org's packages for Fedora and Red Hat
		"/usr/lib/postgresql*/bin",  // SUSE
		"/usr/libexec/postgresql*",  // Alpine
		"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	}
}

var digits = regexp.MustCompile(`[0-9]+`)

// majorOf is the last number in a path: the major version of a Postgres there.
func majorOf(dir string) int {
	all := digits.FindAllString(strings.TrimSuffix(dir, "/bin"), -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1]) // 0 for an absurd number is fine
	return n
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
