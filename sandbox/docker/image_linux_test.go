package docker

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
)

func TestMissingImage(t *testing.T) {
	_, err := backend(t).Create(t.Context(), sandbox.Creation{ID: "no-image", Spec: sandbox.Spec{Image: "stepward/never-made:1"}})
	var ie *sandbox.ImageError
	if !errors.As(err, &ie) || ie.Image != "stepward/never-made:1" || !strings.Contains(ie.Reason, "not found") {
		t.Errorf("got %v, want an ImageError", err)
	}
}

func TestNoEngine(t *testing.T) {
	_, err := New(Config{Host: "unix:///nonexistent/docker.sock"}).Probe(t.Context())
	var ue *sandbox.UnavailableError
	if !errors.As(err, &ue) || !strings.Contains(ue.Reason, "unix:///nonexistent/docker.sock") {
		t.Errorf("got %v, want an UnavailableError that names the address", err)
	}
}

// A dynamic program in an image without its loader is found before it starts.
func TestImageWithoutLoader(t *testing.T) {
	testenv.Require(t, testenv.PartGCC)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.c"), []byte("int main(void) { return 0; }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "dynamic")
	if out, err := exec.Command("gcc", "-o", exe, filepath.Join(dir, "main.c")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := New(Config{Host: testenv.Docker(t), Program: exe})
	_, err := b.Probe(t.Context())
	var ie *sandbox.ImageError
	if !errors.As(err, &ie) || !strings.Contains(ie.Reason, "/ld-") || !strings.Contains(ie.Reason, exe) {
		t.Errorf("got %v, want an ImageError that names the loader and the program", err)
	}
	b.removeVolume(t)
}

// A program that does not become a tool runner is named, with what it said.
func TestProgramIsNoRunner(t *testing.T) {
	dir := t.TempDir()
	src := "package main\n\nfunc main() { println(\"own work\") }\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "other")
	c := exec.Command("go", "build", "-o", exe, filepath.Join(dir, "main.go"))
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := New(Config{Host: testenv.Docker(t), Program: exe})
	_, err := b.Probe(t.Context())
	var ue *sandbox.UnavailableError
	if !errors.As(err, &ue) || !strings.Contains(ue.Reason, "own work") || !strings.Contains(ue.Reason, exe) {
		t.Errorf("got %v, want an UnavailableError with what the program said", err)
	}
	b.removeVolume(t)
}

// A volume that someone pruned is filled again.
func TestPrunedVolume(t *testing.T) {
	b := backend(t)
	if _, err := b.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.removeVolume(t)
	hash := sha256.Sum256([]byte("token"))
	if _, err := b.Create(t.Context(), sandbox.Creation{ID: "pruned", TokenHash: hash}); err != nil {
		t.Error(err)
	}
	if err := b.Destroy(t.Context(), "pruned"); err != nil {
		t.Error(err)
	}
}

func (b *Backend) removeVolume(t *testing.T) {
	t.Helper()
	if b.program == nil {
		t.Fatal("no program was brought")
	}
	if _, err := b.api.VolumeRemove(t.Context(), b.program.volume(), client.VolumeRemoveOptions{}); err != nil {
		t.Error(err)
	}
}

func TestLimitsThatCannotHold(t *testing.T) {
	b := backend(t)
	for field, spec := range map[string]sandbox.Spec{
		"Limits.CPU":    {Limits: sandbox.Limits{CPU: 100000}},
		"Limits.Memory": {Limits: sandbox.Limits{Memory: 1 << 20}},
	} {
		_, err := b.Create(t.Context(), sandbox.Creation{ID: "refused", Spec: spec})
		var ue *sandbox.UnsupportedError
		if !errors.As(err, &ue) || ue.Field != field {
			t.Errorf("%s: got %v, want an UnsupportedError", field, err)
		}
	}
}

// What an image says in its ENV is nothing to the tool runner: not which layers are left out, nor which program
// guests are.
func TestImageEnv(t *testing.T) {
	b := backend(t)
	if _, err := b.Probe(t.Context()); err != nil { // loads the empty image
		t.Fatal(err)
	}
	const tag = "stepward/own-env:1"
	made, err := b.api.ContainerCreate(t.Context(), client.ContainerCreateOptions{Config: &container.Config{Image: emptyImage, Entrypoint: []string{"/none"}}})
	if err != nil {
		t.Fatal(err)
	}
	var says []string
	for _, name := range runner.Env {
		says = append(says, "ENV "+name+"=of-the-image")
	}
	built, err := b.api.ContainerCommit(t.Context(), made.ID, client.ContainerCommitOptions{Reference: tag, Changes: append(says, "ENV OTHER=of-the-image")})
	if _, err := b.api.ContainerRemove(t.Context(), made.ID, client.ContainerRemoveOptions{}); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = b.api.ImageRemove(context.Background(), built.ID, client.ImageRemoveOptions{Force: true})
	})
	s, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: sandbox.Spec{Image: tag}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	about, err := b.api.ContainerInspect(t.Context(), containerName(s.ID()), client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var of []string
	for _, v := range about.Container.Config.Env {
		if strings.Contains(v, "of-the-image") {
			of = append(of, v)
		}
	}
	if len(of) != 1 || of[0] != "OTHER=of-the-image" { // the control: commands have what the image says
		t.Errorf("the image says %q", of)
	}
}

// A tag that moves changes no sandbox that is there, and what a sandbox is made of is on
// record. Who names an image by its digest gets that one or none, whatever a tag says.
func TestMovedTag(t *testing.T) { testMovedTag(t, backend(t)) }

func TestGVisorMovedTag(t *testing.T) { testMovedTag(t, gvisor(t)) }

func testMovedTag(t *testing.T, b *Backend) {
	const tag = "stepward/moving:1"
	if _, err := b.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	api, e, err := b.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	move := func(which string) string {
		if err := load(t.Context(), api, e.arch, tag, tarFile{"etc/which", 0o644, []byte(which)}); err != nil {
			t.Fatal(err)
		}
		res, err := api.ImageInspect(t.Context(), tag)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = api.ImageRemove(context.Background(), res.ID, client.ImageRemoveOptions{Force: true}) })
		return res.ID
	}
	start := func(image string) (*sandbox.Sandbox, error) {
		s, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: sandbox.Spec{Image: image}})
		if err == nil {
			t.Cleanup(func() { _ = s.Destroy(context.Background()) })
		}
		return s, err
	}
	is := func(s *sandbox.Sandbox, which, id string) {
		t.Helper()
		if got, err := fs.ReadFile(s.FS(), "etc/which"); err != nil || string(got) != which {
			t.Errorf("the image is %q, %v, want %s", got, err, which)
		}
		got := s.Enforcement().Image
		if strings.HasSuffix(got, "@"+id) {
			return
		}
		on, err := api.ImageInspect(t.Context(), got) // Podman gives the digest of a manifest to what was loaded
		if err != nil || !strings.Contains(got, "@sha256:") || on.ID != id {
			t.Errorf("on record is %s, which is %s, %v, want %s", got, on.ID, err, id)
		}
	}
	must := func(image string) *sandbox.Sandbox {
		t.Helper()
		s, err := start(image)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := move("first")
	before := must(tag)
	second := move("second")
	is(before, "first", first) // as one of a pool is
	is(must(tag), "second", second)
	pinned := must(first)
	is(pinned, "first", first)
	for _, s := range []*sandbox.Sandbox{before, pinned} { // which hold their image
		if err := s.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := api.ImageRemove(t.Context(), first, client.ImageRemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{first, "stepward/moving@" + first, tag + "@" + first} {
		_, err := start(image)
		var ie *sandbox.ImageError
		if !errors.As(err, &ie) || ie.Image != image || !strings.Contains(ie.Reason, "not found") {
			t.Errorf("%s: %v, want an ImageError", image, err)
		}
	}
}
