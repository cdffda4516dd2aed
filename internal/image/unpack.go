package image

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

const (
	// entryCost is what an entry counts as, besides its content and its name: a block.
	entryCost = 4 << 10

	// maxWindow is how much memory the decompression of a layer may need.
	maxWindow = 128 << 20
)

// An unpacker applies layers to a tree.
type unpacker struct {
	root  *os.Root
	owner int   // the id that is to have its rights
	max   int64 // bytes of all layers

	left   int64             // of max
	dirs   map[string]attr   // what directories get at the end
	mine   map[string]bool   // what this layer has made, and all that is above that
	parent map[string]string // of names: true paths, until something is removed
	buf    []byte
}

type attr struct {
	perm  fs.FileMode
	mtime time.Time
}

// unpack makes the tree of an image in an empty directory.
func unpack(ctx context.Context, i *Image, root *os.Root, owner int, most int64) error {
	u := &unpacker{root: root, owner: owner, max: most, left: most, dirs: map[string]attr{}, buf: make([]byte, 256<<10)}
	for n, name := range i.layers {
		if err := u.layer(ctx, i.file, name, i.diffs[n]); err != nil {
			if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
				return bad(err, "there is no room to unpack it in %s", root.Name())
			}
			return bad(err, "layer %d, %s", n+1, name)
		}
	}
	if err := complete(root, u); err != nil {
		return bad(err, "cannot be made a root file system")
	}
	return u.finish()
}

// layer applies one, and checks that it was that one.
func (u *unpacker) layer(ctx context.Context, f file, name string, want digest.Digest) error {
	packed, err := f.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return bad(nil, "the file lacks layer %s", name)
	} else if err != nil {
		return err
	}
	defer packed.Close()
	plain, err := decompress(packed)
	if err != nil {
		return err
	}
	defer plain.Close()
	check := want.Verifier()
	// The reader stops at the end that a tar says it has; what comes after is of the layer, too.
	r := bufio.NewReaderSize(io.TeeReader(&stopper{ctx, plain, u.max + maxObject, u}, check), 256<<10)
	u.mine, u.parent = map[string]bool{".": true}, map[string]string{}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if err := u.entry(h, t); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, u.buf); err != nil {
		return err
	}
	if !check.Verified() {
		return bad(nil, "layer %s is damaged: it is not %s", name, want)
	}
	return nil
}

// A stopper ends a stream with its context, and one that is longer than any layer.
type stopper struct {
	ctx  context.Context
	r    io.Reader
	left int64
	u    *unpacker
}

func (s *stopper) Read(p []byte) (int, error) {
	if err := context.Cause(s.ctx); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	if s.left -= int64(n); s.left < 0 {
		return 0, s.u.over()
	}
	return n, err
}

func (u *unpacker) over() error {
	return bad(nil, "unpacked, it has more than %d bytes; allow more by Config.MaxImage", u.max)
}

func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 256<<10)
	magic, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch kind := compression(magic); kind {
	case "":
		return io.NopCloser(b), nil
	case "gzip":
		return gzip.NewReader(b)
	case "zstd":
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	default:
		return nil, fmt.Errorf("it is compressed by %s, which images are not", kind)
	}
}

// finish gives directories what would have been in the way, the deepest first.
func (u *unpacker) finish() error {
	names := make([]string, 0, len(u.dirs))
	for name := range u.dirs {
		names = append(names, name)
	}
	slices.Sort(names)
	slices.Reverse(names)
	for _, name := range names {
		a := u.dirs[name]
		if info, err := u.root.Lstat(name); err != nil || !info.IsDir() {
			continue // a later layer has removed it
		}
		if !a.mtime.IsZero() {
			if err := u.root.Chtimes(name, a.mtime, a.mtime); err != nil {
				return err
			}
		}
		if err := u.root.Chmod(name, a.perm); err != nil {
			return err
		}
	}
	return u.root.Chmod(".", 0o555)
}
