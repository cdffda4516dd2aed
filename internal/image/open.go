package image

import (
	_ "crypto/sha256" // for package digest, which knows them by name
	_ "crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	spec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Image is one that can be unpacked on this machine.
type Image struct {
	ID digest.Digest // of its configuration

	file    file
	diffs   []digest.Digest // of the layers, uncompressed
	layers  []string        // parts of the file
	digests []digest.Digest // that name it: of indexes, manifest and configuration
	os, cpu string
}

// Close closes the file of the image.
func (i *Image) Close() error { return i.file.Close() }

// Open finds the image that ref names. The error is an [*Error].
func Open(ref string) (*Image, error) {
	name, pin, err := parse(ref)
	if err != nil {
		return nil, err
	}
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	i, err := find(f, pin)
	if err != nil {
		_ = f.Close()
		return nil, bad(err, "cannot be read")
	}
	return i, nil
}

// parse splits a reference.
func parse(ref string) (name string, pin digest.Digest, err error) {
	at := strings.LastIndex(ref, "@sha256:")
	if at < 0 {
		return ref, "", nil
	}
	if pin, err = digest.Parse(ref[at+1:]); err != nil {
		return "", "", bad(err, "%q is no digest", ref[at+1:])
	}
	return ref[:at], pin, nil
}

// find chooses the image of a file: the one that the pin names, of this machine.
func find(f file, pin digest.Digest) (*Image, error) {
	all, err := list(f)
	if err != nil {
		return nil, err
	}
	var fit, other []*Image
	for _, i := range all {
		switch {
		case pin != "" && !slices.Contains(i.digests, pin):
		case i.os != "linux" || i.cpu != runtime.GOARCH:
			other = append(other, i)
		case !slices.ContainsFunc(fit, func(f *Image) bool { return f.ID == i.ID }):
			fit = append(fit, i)
		}
	}
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(fit) > 1:
		return nil, bad(nil, "the file has several images: name one of @%s", join(fit, " @"))
	case len(other) > 0:
		return nil, bad(nil, "wrong platform: it is for %s/%s, this machine is linux/%s", other[0].os, other[0].cpu, runtime.GOARCH)
	case len(all) > 0:
		return nil, bad(nil, "no such digest in the file: it has %s", join(all, ", "))
	}
	return nil, bad(nil, "the file has no image")
}

func join(all []*Image, sep string) string {
	var ids []string
	for _, i := range all {
		ids = append(ids, i.ID.String())
	}
	return strings.Join(slices.Compact(ids), sep)
}

// list returns the images of a file.
func list(f file) ([]*Image, error) {
	raw, err := object(f, "index.json")
	if errors.Is(err, fs.ErrNotExist) {
		return saved(f)
	}
	var index spec.Index
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil {
		return nil, bad(err, "its index.json cannot be read")
	}
	return layout(f, index.Manifests, nil, 0)
}

// layout lists the images of an OCI layout.
func layout(f file, manifests []spec.Descriptor, above []digest.Digest, depth int) (all []*Image, err error) {
	if depth > 4 {
		return nil, bad(nil, "its indexes are nested too deeply")
	}
	for _, d := range manifests {
		digests := append(slices.Clone(above), d.Digest)
		var found []*Image
		switch d.MediaType {
		case spec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json":
			var index spec.Index
			if err := blob(f, d.Digest, &index); err != nil {
				return nil, err
			}
			found, err = layout(f, index.Manifests, digests, depth+1)
		case spec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json":
			if p := d.Platform; p != nil && (p.OS != "linux" || p.Architecture != runtime.GOARCH) {
				// Its parts need not be there. "unknown" is what signs another one.
				if p.OS != "unknown" {
					all = append(all, &Image{ID: d.Digest, digests: digests, os: p.OS, cpu: p.Architecture})
				}
				continue
			}
			found, err = manifest(f, d.Digest, digests)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// manifest returns the image of a manifest: none if it describes something else.
func manifest(f file, id digest.Digest, digests []digest.Digest) ([]*Image, error) {
	var m spec.Manifest
	if err := blob(f, id, &m); err != nil {
		return nil, err
	}
	if t := m.Config.MediaType; t != spec.MediaTypeImageConfig && t != "application/vnd.docker.container.image.v1+json" {
		return nil, nil
	}
	i := &Image{ID: m.Config.Digest, file: f, digests: append(digests, m.Config.Digest)}
	for _, l := range m.Layers {
		name, err := blobName(l.Digest)
		if err != nil {
			return nil, err
		}
		i.layers = append(i.layers, name)
	}
	var c spec.Image
	if err := blob(f, m.Config.Digest, &c); err != nil {
		return nil, err
	}
	return i.configured(c)
}

// saved lists the images of what docker save writes.
func saved(f file) (all []*Image, err error) {
	raw, err := object(f, "manifest.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bad(nil, "is no image: it has neither an index.json, of an OCI layout, nor a manifest.json, of docker save")
	}
	var manifests []struct {
		Config string
		Layers []string
	}
	if err == nil {
		err = json.Unmarshal(raw, &manifests)
	}
	if err != nil {
		return nil, bad(err, "its manifest.json cannot be read")
	}
	for _, m := range manifests {
		raw, err := object(f, m.Config)
		var c spec.Image
		if err == nil {
			err = json.Unmarshal(raw, &c)
		}
		if err != nil {
			return nil, bad(err, "its configuration %s cannot be read", m.Config)
		}
		i := &Image{ID: digest.FromBytes(raw), file: f, layers: m.Layers}
		i.digests = []digest.Digest{i.ID}
		found, err := i.configured(c)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// configured takes from a configuration what it says.
func (i *Image) configured(c spec.Image) ([]*Image, error) {
	i.os, i.cpu, i.diffs = c.OS, c.Architecture, c.RootFS.DiffIDs
	if len(i.layers) != len(i.diffs) {
		return nil, bad(nil, "image %s has %d layers, and its configuration %d", i.ID, len(i.layers), len(i.diffs))
	}
	for _, d := range i.diffs {
		if err := d.Validate(); err != nil {
			return nil, bad(err, "image %s has a layer whose digest is %q", i.ID, d)
		}
	}
	return []*Image{i}, nil
}

func blobName(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", bad(err, "it refers to the digest %q", d)
	}
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded(), nil
}

// blob reads an object of an OCI layout, and checks it.
func blob(f file, d digest.Digest, v any) error {
	name, err := blobName(d)
	if err != nil {
		return err
	}
	raw, err := object(f, name)
	if errors.Is(err, fs.ErrNotExist) {
		return bad(nil, "the file lacks %s, to which it refers", name)
	}
	if err == nil && d.Algorithm().FromBytes(raw) != d {
		err = fmt.Errorf("it is %s", d.Algorithm().FromBytes(raw))
	}
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		return bad(err, "its part %s is damaged", name)
	}
	return nil
}
