package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/stepward/stepward/sandbox"
)

// An image that wants volumes gets none: no place to write to but /workspace and /tmp,
// and nothing that could stay on the engine's disk.
func TestImageVolumes(t *testing.T) { testImageVolumes(t, backend(t)) }

func TestImageVolumesByExec(t *testing.T) {
	b := backend(t)
	b.noBind = true
	testImageVolumes(t, b)
}

func TestGVisorImageVolumes(t *testing.T) { testImageVolumes(t, gvisor(t)) }

func TestPodmanImageVolumes(t *testing.T) { testImageVolumes(t, podman(t)) }

func testImageVolumes(t *testing.T, b *Backend) {
	closed := []string{"/data", "/none/deep", "/run", "/run/stepward", "/tmp/not/clean/", "/workspace/cache"}
	open := []string{"/tmp", "/workspace/"}
	tag := fmt.Sprintf("stepward/volumes:%d", os.Getpid())
	b.importVolumes(t, tag, slices.Concat(closed, open, []string{programDir}))
	s, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: sandbox.Spec{Image: tag}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Destroy(context.Background()) })
	about, err := b.api.ContainerInspect(t.Context(), containerName(s.ID()), client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	img, err := b.api.ImageInspect(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(img.Config.Volumes); n != len(closed)+len(open)+1 { // the control: the image wants them
		t.Errorf("the image has %d volumes", n)
	}
	for _, m := range about.Container.Mounts {
		if m.Type == mount.TypeVolume && m.Name != b.program.volume() {
			t.Errorf("a volume at %s: %+v", m.Destination, m)
		}
	}
	for _, dir := range closed { // the tool runner writes, whom no Landlock keeps from it
		if err := s.WriteFile(t.Context(), path.Join(dir, "new"), []byte("x"), 0o644); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s was written to: %v", dir, err)
		}
	}
	for _, dir := range open {
		if err := s.WriteFile(t.Context(), path.Join(dir, "new"), []byte("x"), 0o644); err != nil {
			t.Error(err)
		}
	}
	if in, err := fs.ReadDir(s.FS(), "data"); err != nil || len(in) > 0 {
		t.Errorf("/data has %v, %v", in, err)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	b.nothingLeft(t, s.ID())
}

// An image that wants a volume where a sandbox has something else is refused by name,
// before anything is made.
func TestImageVolumesThatCannotBe(t *testing.T) {
	b := backend(t)
	tag := fmt.Sprintf("stepward/misplaced:%d", os.Getpid())
	for _, dir := range []string{"/", "/tmp/..", "/dev", "/dev/", "/proc", "/proc/sys", "/stepward/program", "relative"} {
		b.importVolumes(t, tag, []string{dir})
		_, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: sandbox.Spec{Image: tag}})
		var ie *sandbox.ImageError
		if !errors.As(err, &ie) || ie.Image != tag || !strings.Contains(ie.Reason, "VOLUME at "+dir+",") {
			t.Errorf("a VOLUME at %s: %v, want an ImageError that names it", dir, err)
		}
	}
	tag += "-fine"
	b.importVolumes(t, tag, []string{"/sys/fs/cgroup", "/dev/shm", "/stepward", "/etc"})
	s, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: sandbox.Spec{Image: tag}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

// There is no other place to write to, whatever an engine would give: Podman has some of its own.
func TestScratch(t *testing.T) { testScratch(t, backend(t)) }

func TestGVisorScratch(t *testing.T) { testScratch(t, gvisor(t)) }

func TestPodmanScratch(t *testing.T) { testScratch(t, podman(t)) }

func testScratch(t *testing.T, b *Backend) {
	s, err := sandbox.Start(t.Context(), b, sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Destroy(context.Background()) })
	for _, dir := range []string{"/", "/dev", "/dev/shm", "/etc", "/run", "/run/lock", "/run/shm", "/stepward", "/var", "/var/tmp"} {
		if err := s.WriteFile(t.Context(), path.Join(dir, "new"), []byte("x"), 0o644); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s was written to: %v", dir, err)
		}
	}
}

// importVolumes makes an image that wants volumes at these paths. Its /data has a file,
// and anybody may write to it.
func (b *Backend) importVolumes(t *testing.T, tag string, paths []string) {
	t.Helper()
	if _, err := b.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, dir := range []string{"data/", "run/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o777}); err != nil {
			t.Fatal(err)
		}
	}
	if err := (tarFile{"data/seed", 0o666, []byte("of the image")}).write(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	volumes := object{}
	for _, path := range paths {
		volumes[path] = object{}
	}
	config, err := json.Marshal(object{
		"architecture": b.engine.arch, "os": "linux", "config": object{"Volumes": volumes},
		"rootfs": object{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	if err == nil {
		err = send(t.Context(), b.api, tag, layer.Bytes(), config)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = b.api.ImageRemove(context.Background(), tag, client.ImageRemoveOptions{Force: true}) })
}
