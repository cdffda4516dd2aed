package local_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/image/imagetest"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// What "docker save tools:1 -o tools.tar" wrote is the root of a sandbox, with nothing of
// the host. Its digest, which docker images shows, pins it.
func Example_image() {
	ctx := context.Background()
	w := work{dir: must(os.MkdirTemp("", "example-"))}
	defer w.remove()
	tools, id := w.save()

	b := local.New(local.Config{Images: filepath.Join(w.dir, "images"), Program: sandboxtest.BuildProbe(w)})
	s, err := sandbox.Start(ctx, b, sandbox.Options{Spec: sandbox.Spec{Image: tools + "@" + id}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Destroy(ctx)
	out, err := s.Command("/opt/tool", "probe:numbers", "2").Output(ctx)
	fmt.Printf("%q %v\n", out, err)
	_, err = fs.Stat(s.FS(), "usr/bin/env")
	fmt.Println("the host's programs:", errors.Is(err, fs.ErrNotExist))
	fmt.Println("on record:", s.Enforcement().Image == tools+"@"+id)

	var ie *sandbox.ImageError
	_, err = sandbox.Start(ctx, b, sandbox.Options{Spec: sandbox.Spec{Image: tools + "@sha256:" + strings.Repeat("0", 64)}})
	fmt.Println("another digest is refused:", errors.As(err, &ie))
	// Output:
	// "1\n2\n" <nil>
	// the host's programs: true
	// on record: true
	// another digest is refused: true
}

// work is the directory of the example, as one of a test: what fails there panics.
type work struct {
	testing.TB
	dir string
}

func (w work) Helper()                      {}
func (w work) TempDir() string              { return must(os.MkdirTemp(w.dir, "")) }
func (w work) Fatal(args ...any)            { panic(fmt.Sprint(args...)) }
func (w work) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

func (w work) remove() {
	open(w.dir)
	_ = os.RemoveAll(w.dir) // of the system's temporary files
}

// save writes the image, which has one program.
func (w work) save() (path, id string) {
	tool := must(os.ReadFile(sandboxtest.BuildProbe(w)))
	img := imagetest.Image{Layers: [][]byte{imagetest.Layer(w, imagetest.Dir("opt", 0o755), imagetest.File("opt/tool", string(tool), 0o755))}}
	path = filepath.Join(w.dir, "tools.tar")
	imagetest.Save(w, path, img)
	return path, string(img.ID(w))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
