// Package imagetest makes images for tests.
package imagetest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	spec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Entry is one of a layer.
type Entry struct {
	tar.Header
	Body string
}

// File, Dir, Link and Hard are entries.
func File(name, body string, mode int64) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(body))}, body}
}

func Dir(name string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}}
}

func Link(name, to string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}}
}

func Hard(name, to string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}}
}

// Layer is the tar of entries.
func Layer(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		err := w.WriteHeader(&e.Header)
		if err == nil {
			_, err = io.WriteString(w, e.Body)
		}
		if err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// An Image is one to be written to a file.
type Image struct {
	Arch   string // this machine's if empty
	Layers [][]byte
	Pack   string // how layers are compressed: "gzip", "zstd"
	Config spec.ImageConfig
}

// Config is the configuration as it is written, and its digest.
func (i Image) config(t testing.TB) ([]byte, digest.Digest) {
	c := spec.Image{Platform: spec.Platform{OS: "linux", Architecture: cmp.Or(i.Arch, runtime.GOARCH)}, Config: i.Config, RootFS: spec.RootFS{Type: "layers"}}
	for _, l := range i.Layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
	}
	raw := marshal(t, c)
	return raw, digest.FromBytes(raw)
}

// ID is the digest of the configuration.
func (i Image) ID(t testing.TB) digest.Digest {
	_, id := i.config(t)
	return id
}

func (i Image) pack(t testing.TB, layer []byte) []byte {
	var b bytes.Buffer
	var w io.WriteCloser
	switch i.Pack {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zstd":
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	default:
		return layer
	}
	_, err := w.Write(layer)
	if cerr := w.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	return b.Bytes()
}

// Save writes images as docker save did before version 25.
func Save(t testing.TB, path string, images ...Image) {
	t.Helper()
	var parts []Entry
	var manifests []map[string]any
	for _, i := range images {
		raw, id := i.config(t)
		var layers []string
		for _, l := range i.Layers {
			name := digest.FromBytes(l).Encoded() + "/layer.tar"
			layers = append(layers, name)
			parts = append(parts, File(name, string(i.pack(t, l)), 0o644))
		}
		parts = append(parts, File(id.Encoded()+".json", string(raw), 0o644))
		manifests = append(manifests, map[string]any{"Config": id.Encoded() + ".json", "RepoTags": []string{"x:1"}, "Layers": layers})
	}
	parts = append(parts, File("manifest.json", string(marshal(t, manifests)), 0o644))
	if err := os.WriteFile(path, Layer(t, parts...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Layout writes the directory of an OCI layout, whose images have an index of their
// own as those of several platforms have. It returns the digests of that index and of
// the manifests.
func Layout(t testing.TB, dir string, images ...Image) (index digest.Digest, manifests []digest.Digest) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	blob := func(mediaType string, raw []byte) spec.Descriptor {
		d := digest.FromBytes(raw)
		if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", d.Encoded()), raw, 0o644); err != nil {
			t.Fatal(err)
		}
		return spec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
	}
	inner := spec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}
	for _, i := range images {
		raw, _ := i.config(t)
		m := spec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: blob(spec.MediaTypeImageConfig, raw)}
		for _, l := range i.Layers {
			m.Layers = append(m.Layers, blob(spec.MediaTypeImageLayer, i.pack(t, l)))
		}
		d := blob(spec.MediaTypeImageManifest, marshal(t, m))
		d.Platform = &spec.Platform{OS: "linux", Architecture: cmp.Or(i.Arch, runtime.GOARCH)}
		inner.Manifests = append(inner.Manifests, d)
		manifests = append(manifests, d.Digest)
	}
	top := spec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []spec.Descriptor{blob(spec.MediaTypeImageIndex, marshal(t, inner))}}
	for name, raw := range map[string][]byte{"index.json": marshal(t, top), "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return top.Manifests[0].Digest, manifests
}

// Tar writes the tar of a directory.
func Tar(t testing.TB, dir, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	err = w.AddFS(os.DirFS(dir))
	if err == nil {
		err = w.Close()
	}
	if cerr := f.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
