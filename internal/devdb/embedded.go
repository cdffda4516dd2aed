package devdb

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// embeddedVersion is what [WayEmbedded] downloads.
const embeddedVersion = embeddedpostgres.V17

// openEmbedded downloads the programs, and runs them as openLocal does: the
// library has no way to run them under another user, which root needs, and
// none to share a server.
func openEmbedded(ctx context.Context, cfg Config) (*DB, error) {
	cache := cfg.CacheDir
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		cache = filepath.Join(dir, "stepward", "postgres")
	}
	return joinCluster(ctx, cfg, func(clusterDir string) (string, error) {
		// Unpacked anew for each cluster: the cache may be closed to the server's user.
		return unpack(cfg, cache, filepath.Join(clusterDir, "programs"))
	})
}

// unpack downloads the archive unless the cache has it, unpacks it into dir,
// and returns the folder of programs.
func unpack(cfg Config, cache, dir string) (string, error) {
	lib := embeddedpostgres.DefaultConfig().
		Version(embeddedVersion).
		CachePath(cache).
		RuntimePath(dir).
		Port(0).
		Logger(io.Discard).
		// The library fetches only as the first part of Start. A path that
		// cannot exist ends Start right after it.
		DataPath("\x00")
	if repo := cmp.Or(cfg.Repository, os.Getenv("STEPWARD_POSTGRES_REPOSITORY")); repo != "" {
		lib = lib.BinaryRepositoryURL(repo)
	}
	startErr := embeddedpostgres.NewDatabase(lib).Start()
	bin := filepath.Join(dir, "bin")
	if !isExecutable(filepath.Join(bin, "initdb")) || !isExecutable(filepath.Join(bin, "postgres")) {
		return "", fmt.Errorf("embedded-postgres %s: %w", embeddedVersion, startErr)
	}
	return bin, openToAll(dir)
}

// openToAll lets the server's user read what was unpacked under any umask.
func openToAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}
