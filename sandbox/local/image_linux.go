package local

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/image"
	"github.com/stepward/stepward/internal/program"
	"github.com/stepward/stepward/sandbox"
)

// useImage gives an instance the root of an image, and returns the path of the tool
// runner that can run there.
func (b *Backend) useImage(ctx context.Context, inst *instance, ref string) (string, error) {
	fail := func(err error) (string, error) {
		var ie *image.Error
		if ctx.Err() != nil || !errors.As(err, &ie) {
			return "", err
		}
		return "", &sandbox.ImageError{Backend: Name, Image: ref, Reason: ie.Reason, Err: ie.Err}
	}
	cache := image.Cache{Dir: b.config.Images, Max: cmp.Or(b.config.MaxImage, DefaultMaxImage)}
	if cache.Dir == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return fail(&image.Error{Reason: "there is no directory to unpack it in: set Config.Images", Err: err})
		}
		cache.Dir = filepath.Join(dir, "stepward", "images")
	}
	img, err := image.Open(ref)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = img.Close() }()
	runner, err := b.carried(ctx)
	if err != nil {
		return "", err
	}
	if inst.root, err = cache.Root(ctx, img); err != nil {
		return fail(err)
	}
	inst.image = ref
	if !strings.Contains(ref, "@sha256:") {
		inst.image += "@" + img.ID.String()
	}
	if runner.Loader != "" && !inst.root.Has(runner.Loader) {
		return fail(&image.Error{Reason: "has no dynamic loader " + runner.Loader + ", which the program " + runner.Path +
			" needs; build it with CGO_ENABLED=0, or use an image that has the loader"})
	}
	return runner.Path, nil
}

// carried returns the tool runner for images. To find it may take as long as to build it.
func (b *Backend) carried(ctx context.Context) (*program.Program, error) {
	select {
	case b.finding <- struct{}{}:
		defer func() { <-b.finding }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if b.program == nil {
		p, err := program.Find(ctx, program.Want{Configured: b.config.Program})
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		} else if err != nil {
			return nil, unavailable("it has no tool runner that could run in an image", err)
		}
		b.program = &p
	}
	return b.program, nil
}

// detached returns the tree at a path as a mount that is nowhere, which a process
// inside can move to where it wants it: its id may not reach the path. Without the
// right to make one, which an ordinary user does not have, it is nil; the id inside
// is the worker's own then.
func detached(path string) *os.File {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), path)
}
