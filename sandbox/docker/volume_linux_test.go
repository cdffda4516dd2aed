package docker

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/program"
)

// A process that died while it looked at the volume of tool runners, or filled it,
// holds nobody up for long.
func TestHelperOfDeadProcess(t *testing.T) { testHelperOfDeadProcess(t, backend) }

func testHelperOfDeadProcess(t *testing.T, backend func(*testing.T) *Backend) {
	ctx := t.Context()
	dead := backend(t)
	if _, err := dead.Probe(ctx); err != nil {
		t.Fatal(err)
	}
	api, e, err := dead.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	img, err := dead.image(ctx, api, e, "")
	if err != nil {
		t.Fatal(err)
	}
	remove := func(id string) {
		if _, err := api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
	id, err := lockHelper(ctx, api, dead.program, img, time.Hour)
	if err != nil || id == "" {
		t.Fatalf("got %q, %v", id, err)
	}
	if _, err := backend(t).Probe(ctx); err != nil {
		t.Errorf("the volume is filled: %v", err)
	}
	remove(id)

	path := filepath.Join(t.TempDir(), "program")
	text := make([]byte, 1000)
	rand.Read(text)
	if err := os.WriteFile(path, text, 0o700); err != nil {
		t.Fatal(err)
	}
	other := &carried{Program: program.Program{Path: path}, sha256: fmt.Sprintf("%x", sha256.Sum256(text)), size: int64(len(text))}
	if id, err = lockHelper(ctx, api, other, img, time.Hour); err != nil || id == "" {
		t.Fatalf("got %q, %v", id, err)
	}
	next, err := lockHelper(ctx, api, other, img, 200*time.Millisecond)
	if err != nil || next == "" || next == id {
		t.Errorf("after a copy that stands still: %q, %v", next, err)
	}
	remove(next)
	if err := dead.fill(ctx, api, other, img); err != nil {
		t.Error(err)
	}
	if _, err := api.VolumeRemove(ctx, other.volume(), client.VolumeRemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
}
