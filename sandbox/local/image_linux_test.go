package local_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/image/imagetest"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// scratch writes an image that has nothing of the host: directories, and files that
// tell what a sandbox may do with them.
func scratch(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "scratch.tar")
	imagetest.Save(t, path, imagetest.Image{Layers: [][]byte{imagetest.Layer(t,
		imagetest.Dir("var/tmp", 0o1777), imagetest.Dir("run", 0o755), imagetest.Dir("usr", 0o755), imagetest.Dir("private", 0o700), imagetest.Dir("sys", 0o555),
		imagetest.Dir("etc", 0o755), imagetest.File("etc/shadow", "root:*", 0o640), imagetest.File("etc/name", "image", 0o644),
		imagetest.File("private/key", "secret", 0o600),
	)}})
	return path
}

// imageBackend keeps what it unpacks in a directory of the test, which only its user
// can reach.
func imageBackend(t *testing.T) *local.Backend {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "images")
	t.Cleanup(func() { open(dir) })
	return local.New(local.Config{Program: sandboxtest.BuildProbe(t), Images: dir})
}

// open lets a tree be removed by its owner.
func open(dir string) {
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(name, 0o700)
		}
		return nil
	})
}

// The suites, in an image.
func TestImage(t *testing.T) {
	b, o := imageBackend(t), sandboxtest.Options{Spec: sandbox.Spec{Image: scratch(t)}}
	t.Run("backend", func(t *testing.T) { sandboxtest.TestBackend(t, b, o) })
	t.Run("leak", func(t *testing.T) { sandboxtest.TestLeak(t, b, o) })
}

func TestImageEscape(t *testing.T) {
	b, o := imageBackend(t), sandboxtest.Options{Spec: sandbox.Spec{Image: scratch(t)}}
	t.Run("layers", func(t *testing.T) { sandboxtest.TestLayers(t, b, o) })
	t.Run("escape", func(t *testing.T) { sandboxtest.TestEscape(t, b, o) })
	t.Run("host", func(t *testing.T) { testNothingOfTheHost(t, b, o.Spec) })
}

// testNothingOfTheHost lists all that can be seen.
func testNothingOfTheHost(t *testing.T, b *local.Backend, spec sandbox.Spec) {
	s, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(t.Context())
	if e := s.Enforcement(); !strings.HasPrefix(e.Image, spec.Image+"@sha256:") || !e.ReadOnlyRoot {
		t.Errorf("what is recorded: %+v", e)
	}
	top, err := fs.ReadDir(s.FS(), ".")
	var names []string
	for _, e := range top {
		names = append(names, e.Name())
	}
	if want := "dev etc private proc run sys tmp usr var workspace"; err != nil || strings.Join(names, " ") != want {
		t.Errorf("the root has %q, %v; want %s", names, err, want)
	}
	for name, want := range map[string]string{"/etc/name": "image", "/etc/hostname": "sandbox\n"} {
		if got, err := s.ReadFile(t.Context(), name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"/etc/shadow", "/private/key"} { // uid 10001 may not, whoever it is outside
		if got, err := s.ReadFile(t.Context(), name); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, dir := range []string{"etc", "usr", "run", "var/tmp", "sys"} {
		entries, err := fs.ReadDir(s.FS(), dir)
		for _, e := range entries {
			switch name := dir + "/" + e.Name(); name {
			case "etc/group", "etc/hostname", "etc/hosts", "etc/name", "etc/passwd", "etc/resolv.conf", "etc/shadow":
			default:
				t.Errorf("there is a %s", name)
			}
		}
		if err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
	mounts, err := s.ReadFile(t.Context(), "/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(mounts)), "\n") {
		f := strings.Fields(line)
		writable := f[4] == "/workspace" || f[4] == "/tmp"
		if strings.HasPrefix(f[4], "/dev/") || strings.HasPrefix(f[4], "/proc") {
			continue
		}
		if opts := "," + f[5] + ","; strings.Contains(opts, ",ro,") == writable || !strings.Contains(opts, ",nosuid,") || !strings.Contains(opts, ",nodev,") {
			t.Errorf("mounted: %s", line)
		}
	}
}

// The programs of an image run in it, with its libraries, and those of the host do
// not.
func TestProgramsOfImage(t *testing.T) {
	dirs, files := map[string]bool{}, map[string]bool{}
	var base []imagetest.Entry
	add := func(path, as string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if dir := filepath.Dir(as); !dirs[dir] {
			dirs[dir] = true
			base = append(base, imagetest.Dir(dir, 0o755))
		}
		if !files[as] {
			files[as] = true
			base = append(base, imagetest.File(as, string(data), 0o755))
		}
	}
	for _, name := range []string{"sh", "cat"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		add(path, "/prog/"+name)
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/") {
				add(word, word)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "layout")
	imagetest.Layout(t, dir, imagetest.Image{Pack: "zstd", Layers: [][]byte{
		imagetest.Layer(t, append(base, imagetest.File("prog/old", "old", 0o644), imagetest.Dir("bin", 0o755))...),
		imagetest.Layer(t, imagetest.Link("bin/sh", "/prog/sh"), imagetest.Hard("bin/cat", "prog/cat"), imagetest.File("prog/.wh.old", "", 0)),
	}})
	b := imageBackend(t)
	s, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: sandbox.Spec{Image: dir}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(t.Context())
	out, err := s.Command("sh", "-c", "cat /etc/hostname; echo /bin/* /prog/*; echo x > /bin/x || echo refused; echo x > /dev/x || echo refused; echo y > /tmp/y && cat /tmp/y").Output(t.Context())
	if want := "sandbox\n/bin/cat /bin/sh /prog/cat /prog/sh\nrefused\nrefused\ny\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
	if err := s.Command("ls").Run(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a program that the image has not: %v", err)
	}
}

// An image that cannot be used is named, with why, and no sandbox and no file stays.
func TestImageErrors(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	other := map[string]string{"amd64": "arm64"}[runtime.GOARCH]
	if other == "" {
		other = "amd64"
	}
	layer := imagetest.Layer(t, imagetest.File("large", string(make([]byte, 64<<10)), 0o644))
	imagetest.Save(t, at("foreign.tar"), imagetest.Image{Arch: other})
	imagetest.Save(t, at("large.tar"), imagetest.Image{Layers: [][]byte{layer}})
	imagetest.Save(t, at("escape.tar"), imagetest.Image{Layers: [][]byte{imagetest.Layer(t, imagetest.File("../x", "", 0o644))}})
	b := local.New(local.Config{Program: sandboxtest.BuildProbe(t), Images: at("images"), MaxImage: 32 << 10})
	none := "@sha256:" + strings.Repeat("0", 64)
	for ref, want := range map[string]string{
		"debian":               "no such file",
		at("missing.tar"):      "no such file",
		at("foreign.tar"):      "wrong platform: it is for linux/" + other,
		at("large.tar"):        "more than 32768 bytes; allow more by Config.MaxImage",
		at("large.tar") + none: "no such digest in the file",
		at("escape.tar"):       `layer 1, `,
	} {
		_, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: sandbox.Spec{Image: ref}, Labels: sandbox.Labels{Schema: "images"}})
		var ie *sandbox.ImageError
		if !errors.As(err, &ie) || ie.Image != ref || ie.Backend != local.Name || !strings.Contains(ie.Reason, want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
	if l, err := b.List(t.Context(), "images"); err != nil || len(l) != 0 {
		t.Errorf("sandboxes are left: %+v, %v", l, err)
	}
	entries, err := os.ReadDir(at("images"))
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			t.Errorf("%s is left", e.Name())
		}
	}
}

// A dynamic tool runner in an image without its loader is found before it starts.
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
	b := local.New(local.Config{Program: exe, Images: filepath.Join(dir, "images")})
	t.Cleanup(func() { open(dir) })
	_, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: sandbox.Spec{Image: scratch(t)}})
	var ie *sandbox.ImageError
	if !errors.As(err, &ie) || !strings.Contains(ie.Reason, "/ld-") || !strings.Contains(ie.Reason, exe) {
		t.Errorf("%v, want an ImageError that names the loader and the program", err)
	}
}
