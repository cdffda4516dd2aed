package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

const (
	maxEntries = 1 << 16 // of a file that holds images
	maxObject  = 8 << 20 // bytes of a manifest or a configuration
)

// A file holds images: its parts have names.
type file interface {
	open(name string) (io.ReadCloser, error) // fs.ErrNotExist: there is no such part
	Close() error
}

// openFile opens a directory or a tar.
func openFile(name string) (file, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bad(nil, "no such file; an image is a file here, as docker save writes one, or an OCI layout")
	} else if err != nil {
		return nil, bad(err, "cannot be read")
	}
	if info.IsDir() {
		root, err := os.OpenRoot(name)
		if err != nil {
			return nil, bad(err, "cannot be read")
		}
		return folder{root}, nil
	}
	if !info.Mode().IsRegular() {
		return nil, bad(nil, "is neither a file nor a directory")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, bad(err, "cannot be read")
	}
	a := &archive{File: f, parts: map[string]*io.SectionReader{}, links: map[string]string{}}
	if err := a.index(); err != nil {
		f.Close()
		return nil, err
	}
	return a, nil
}

type folder struct{ *os.Root }

func (f folder) open(name string) (io.ReadCloser, error) {
	r, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := r.Stat(); err != nil || !info.Mode().IsRegular() {
		r.Close()
		return nil, bad(err, "%s is no file", name)
	}
	return r, nil
}

// An archive is a tar, read where its parts are.
type archive struct {
	*os.File
	parts map[string]*io.SectionReader
	links map[string]string // docker save once wrote a layer that it had written before as a link to it
}

func (a *archive) index() error {
	magic := make([]byte, 6)
	if _, err := a.ReadAt(magic, 0); err == nil {
		if kind := compression(magic); kind != "" {
			return bad(nil, "is compressed by %s: decompress it first, for its parts are read where they are", kind)
		}
	}
	t := tar.NewReader(a.File)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return bad(err, "is no tar, or is cut off")
		}
		if n == maxEntries {
			return bad(nil, "is no image: it has more than %d entries", maxEntries)
		}
		name := clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := a.Seek(0, io.SeekCurrent)
			if err != nil {
				return bad(err, "cannot be read")
			}
			a.parts[name] = io.NewSectionReader(a.File, at, h.Size)
		case tar.TypeSymlink:
			a.links[name] = clean(path.Join(path.Dir(name), h.Linkname))
		case tar.TypeLink:
			a.links[name] = clean(h.Linkname)
		}
	}
}

func (a *archive) open(name string) (io.ReadCloser, error) {
	name = clean(name)
	for range 8 {
		if p := a.parts[name]; p != nil {
			return io.NopCloser(io.NewSectionReader(p, 0, p.Size())), nil
		}
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// clean returns a name without what leads nowhere, and never above the top.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// object reads a small part whole.
func object(f file, name string) ([]byte, error) {
	r, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxObject+1))
	if err == nil && len(raw) > maxObject {
		err = fmt.Errorf("%s has more than %d bytes", name, maxObject)
	}
	return raw, err
}

// compression returns how data that begins so is compressed: "" if it is not.
func compression(magic []byte) string {
	switch {
	case strings.HasPrefix(string(magic), "\x1f\x8b"):
		return "gzip"
	case strings.HasPrefix(string(magic), "\x28\xb5\x2f\xfd"):
		return "zstd"
	case strings.HasPrefix(string(magic), "BZh"):
		return "bzip2"
	case strings.HasPrefix(string(magic), "\xfd7zXZ"):
		return "xz"
	}
	return ""
}
