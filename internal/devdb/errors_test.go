//go:build unix

package devdb_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/devdb"
)

func TestUnavailable(t *testing.T) {
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	t.Setenv("DATABASE_URL", "")
	_, err := devdb.Open(t.Context(), devdb.Config{
		Ways:       []devdb.Way{devdb.WayURL, devdb.WayEmbedded},
		Dir:        sharedDir(t),
		Repository: empty.URL,
		CacheDir:   t.TempDir(),
	})
	var unavailable *devdb.UnavailableError
	if !errors.As(err, &unavailable) || len(unavailable.Tried) != 2 {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"DATABASE_URL: not set", "download: ", "no version found", "install"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// A server that somebody asked for is not replaced by another one.
func TestDatabaseURLIsFinal(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://u:hidden@127.0.0.1:1/db?connect_timeout=2")
	_, err := devdb.Open(t.Context(), devdb.Config{})
	var unavailable *devdb.UnavailableError
	if !errors.As(err, &unavailable) || len(unavailable.Tried) != 1 || unavailable.Tried[0].Way != devdb.WayURL {
		t.Fatalf("got %v", err)
	}
	if strings.Contains(err.Error(), "hidden") {
		t.Errorf("the password is in: %v", err)
	}
}

func TestDatabaseURL(t *testing.T) {
	local := openLocal(t, sharedDir(t))
	t.Setenv("DATABASE_URL", local.URL)
	db, err := devdb.Open(t.Context(), devdb.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if db.URL != local.URL || db.Way != devdb.WayURL || !strings.Contains(db.Source, "DATABASE_URL") {
		t.Errorf("got %+v", db)
	}
}
