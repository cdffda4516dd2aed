//go:build linux

package devdb_test

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stepward/stepward/internal/devdb"
)

// repository serves this machine's programs in the form in which Maven
// Central has them, and counts the downloads.
func repository(t *testing.T) (url string, downloads *atomic.Int32) {
	t.Helper()
	bin := localBin(t)
	jar := filepath.Join(t.TempDir(), "postgres.jar")
	// Without what only a compiler at run time reads, most of it: xz is slow, and with
	// the race detector ten times as slow.
	txz := exec.Command("tar", "-C", filepath.Dir(bin), "--exclude=lib/bitcode", "-cJf", "-", "bin/initdb", "bin/pg_ctl", "bin/postgres", "lib")
	txz.Env = append(os.Environ(), "XZ_OPT=-0")
	archive, err := txz.Output()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(jar)
	if err != nil {
		t.Fatal(err)
	}
	w := zip.NewWriter(f)
	entry, err := w.Create("postgres-linux.txz")
	if err == nil {
		_, err = entry.Write(archive)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(jar)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	downloads = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasPrefix(r.URL.Path, "/io/zonky/test/postgres/embedded-postgres-binaries-"):
			http.NotFound(w, r)
		case strings.HasSuffix(r.URL.Path, ".jar"):
			downloads.Add(1)
			_, _ = w.Write(content)
		case strings.HasSuffix(r.URL.Path, ".jar.sha256"):
			_, _ = w.Write([]byte(hex.EncodeToString(sum[:])))
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, downloads
}

func TestEmbedded(t *testing.T) {
	url, downloads := repository(t)
	cfg := devdb.Config{
		Ways:       []devdb.Way{devdb.WayEmbedded},
		Repository: url,
		CacheDir:   filepath.Join(t.TempDir(), "closed to others"),
	}
	if err := os.Mkdir(cfg.CacheDir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		cfg.Dir = sharedDir(t)
		db, err := devdb.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		if !strings.Contains(db.Source, filepath.Join(cfg.Dir, "c-")) {
			t.Errorf("source %q does not name the downloaded programs", db.Source)
		}
		if _, err := query(t, db.URL, "SELECT 'there'"); err != nil {
			t.Error(err)
		}
	}
	if n := downloads.Load(); n != 1 {
		t.Errorf("%d downloads for two clusters", n)
	}
}
