package docker

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/client"

	"github.com/stepward/stepward/sandbox"
)

// emptyImage is the image for a Spec that names none. Its tag is to change with
// its content.
const emptyImage = "stepward/empty:1"

// An image is the root file system of a sandbox, pinned by its ID.
type image struct {
	id      string
	ref     string   // with a digest where there is one
	volumes []string // paths that the image wants as volumes
}

func (b *Backend) image(ctx context.Context, api *client.Client, e *engine, ref string) (image, error) {
	own := ref == ""
	if own {
		ref = cmp.Or(b.config.Image, emptyImage)
	}
	inspect := func() (client.ImageInspectResult, error) {
		ctx, cancel := context.WithTimeout(ctx, createTimeout)
		defer cancel()
		return api.ImageInspect(ctx, ref)
	}
	res, err := inspect()
	if errdefs.IsNotFound(err) && ref == emptyImage {
		loading, cancel := context.WithTimeout(ctx, createTimeout)
		defer cancel()
		if err := load(loading, api, e.arch, emptyImage); err != nil {
			return image{}, fmt.Errorf("sandbox: load %s into the Docker engine: %w", ref, err)
		}
		res, err = inspect()
	}
	if errdefs.IsNotFound(err) {
		if reason := b.mayPull(ctx, ref, own); reason != "" {
			return image{}, &sandbox.ImageError{Backend: Name, Image: ref, Reason: reason}
		}
		if err := b.pull(ctx, api, ref); err != nil {
			return image{}, err
		}
		res, err = inspect()
	}
	if errdefs.IsInvalidArgument(err) {
		return image{}, &sandbox.ImageError{Backend: Name, Image: ref, Reason: "is no image reference", Err: err}
	} else if err != nil {
		return image{}, fmt.Errorf("sandbox: inspect image %s: %w", ref, err)
	}
	if res.Os != "linux" || res.Architecture != e.arch {
		return image{}, &sandbox.ImageError{Backend: Name, Image: ref, Reason: fmt.Sprintf("wrong platform: it is for %s/%s, the engine is linux/%s", res.Os, res.Architecture, e.arch)}
	}
	img := image{id: res.ID, ref: ref + "@" + res.ID}
	if len(res.RepoDigests) > 0 {
		img.ref = res.RepoDigests[0]
		if i := slices.IndexFunc(res.RepoDigests, func(s string) bool { return repository(s) == repository(ref) }); i >= 0 {
			img.ref = res.RepoDigests[i] // it may have others, too
		}
	}
	if res.Config != nil {
		for dir := range res.Config.Volumes {
			if !closable(dir) {
				return image{}, &sandbox.ImageError{Backend: Name, Image: ref, Reason: fmt.Sprintf("has a VOLUME at %s, where a sandbox cannot keep it closed", dir)}
			}
			img.volumes = append(img.volumes, dir)
		}
	}
	return img, nil
}

// closable reports whether a directory that nothing can be written to can be mounted
// where an image wants a volume.
func closable(volume string) bool {
	dir := path.Clean(volume)
	return path.IsAbs(dir) && dir != "/" && dir != "/dev" && !strings.HasPrefix(dir+"/", "/proc/") && !strings.HasPrefix(dir, programDir+"/")
}

// repository is the full name of an image, without tag and digest.
func repository(ref string) string {
	name, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return name.Name()
}

// made returns the layer and the configuration of an image with nothing in it but files.
func made(arch string, files ...tarFile) (tree, config []byte, err error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, dir := range []struct {
		name string
		mode int64
	}{{"dev", 0o755}, {"etc", 0o755}, {"proc", 0o555}, {"run", 0o755}, {"stepward", 0o755}, {"sys", 0o555}, {"tmp", 0o1777}, {"workspace", 0o755}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir.name + "/", Mode: dir.mode}); err != nil {
			return nil, nil, err
		}
	}
	for _, f := range append([]tarFile{
		{"etc/passwd", 0o644, fmt.Appendf(nil, "root:x:0:0::/:/\nsandbox:x:%d:%d::/workspace:/\n", uid, uid)},
		{"etc/group", 0o644, fmt.Appendf(nil, "root:x:0:\nsandbox:x:%d:\n", uid)},
	}, files...) {
		if err := f.write(w); err != nil {
			return nil, nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, nil, err
	}
	type object = map[string]any
	config, err = json.Marshal(object{
		"architecture": arch, "os": "linux", "created": "2026-01-01T00:00:00Z",
		"config": object{"WorkingDir": "/workspace"},
		"rootfs": object{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	return layer.Bytes(), config, err
}

// load loads an image that is made. Its bytes are always the same, so loading it twice,
// or at the same time, makes one image.
func load(ctx context.Context, api *client.Client, arch, tag string, files ...tarFile) error {
	layer, config, err := made(arch, files...)
	if err != nil {
		return err
	}
	return send(ctx, api, tag, layer, config)
}

// send loads an image of one layer.
func send(ctx context.Context, api *client.Client, tag string, layer, config []byte) error {
	type object = map[string]any
	name := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest, err := json.Marshal([]object{{"Config": name, "RepoTags": []string{tag}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range []tarFile{{"layer.tar", 0o644, layer}, {name, 0o644, config}, {"manifest.json", 0o644, manifest}} {
		if err := f.write(w); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	res, err := api.ImageLoad(ctx, &archive, client.ImageLoadWithQuiet(true))
	if err != nil {
		return err
	}
	defer res.Close()
	// The status was sent before the work was done: errors are in the body.
	dec := json.NewDecoder(res)
	for {
		var msg struct {
			Error string `json:"error"`
		}
		if err := dec.Decode(&msg); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if msg.Error != "" {
			return fmt.Errorf("%s", msg.Error)
		}
	}
}

type tarFile struct {
	name string
	mode int64
	data []byte
}

func (f tarFile) write(w *tar.Writer) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data))}); err != nil {
		return err
	}
	_, err := w.Write(f.data)
	return err
}
