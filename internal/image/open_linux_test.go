package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stepward/stepward/internal/image"
	"github.com/stepward/stepward/internal/image/imagetest"
)

var foreign = map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]

// Each kind of file, each compression, and each digest that may pin it leads to the
// same tree under the same name.
func TestOpen(t *testing.T) {
	layers := [][]byte{
		imagetest.Layer(t, imagetest.Dir("etc", 0o755), imagetest.File("etc/name", "one", 0o644)),
		imagetest.Layer(t, imagetest.File("etc/name", "two", 0o644)),
	}
	dir := t.TempDir()
	cache := newCache(t)
	for _, pack := range []string{"", "gzip", "zstd"} {
		img := imagetest.Image{Layers: layers, Pack: pack}
		other := imagetest.Image{Layers: layers[:1], Arch: foreign}
		saved, layout, packed := filepath.Join(dir, pack+"saved.tar"), filepath.Join(dir, pack+"layout"), filepath.Join(dir, pack+"layout.tar")
		imagetest.Save(t, saved, img)
		index, manifests := imagetest.Layout(t, layout, other, img)
		imagetest.Tar(t, layout, packed)
		if err := os.Remove(filepath.Join(layout, "blobs/sha256", manifests[0].Encoded())); err != nil { // of the other platform
			t.Fatal(err)
		}
		id := img.ID(t)
		for _, ref := range []string{
			saved, layout, packed, saved + "@" + id.String(), layout + "@" + id.String(), packed + "@" + id.String(),
			layout + "@" + index.String(), packed + "@" + manifests[1].String(),
		} {
			i, err := image.Open(ref)
			if err != nil {
				t.Errorf("%s: %v", ref, err)
				continue
			}
			r, err := cache.Root(t.Context(), i)
			if err != nil {
				t.Errorf("%s: %v", ref, err)
				continue
			}
			if i.ID != id || !strings.Contains(r.Path, id.Encoded()) {
				t.Errorf("%s: %s in %s, want %s", ref, i.ID, r.Path, id)
			}
			if got, err := os.ReadFile(r.Path + "/etc/name"); err != nil || string(got) != "two" {
				t.Errorf("%s: %q, %v", ref, got, err)
			}
			r.Close()
			i.Close()
		}
		if err := os.RemoveAll(filepath.Dir(cache.Dir)); err != nil { // the next one is unpacked again
			t.Fatal(err)
		}
	}
}

// What cannot be used is refused, by a reason that names the culprit.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	one := imagetest.Image{Layers: [][]byte{imagetest.Layer(t, imagetest.File("a", "1", 0o644))}}
	two := imagetest.Image{Layers: [][]byte{imagetest.Layer(t, imagetest.File("a", "2", 0o644))}}
	imagetest.Save(t, at("one.tar"), one)
	imagetest.Save(t, at("both.tar"), one, two)
	imagetest.Save(t, at("foreign.tar"), imagetest.Image{Arch: foreign})
	_, manifests := imagetest.Layout(t, at("foreign"), imagetest.Image{Arch: foreign})
	imagetest.Layout(t, at("layout"), one)
	_, damaged := imagetest.Layout(t, at("damaged"), one)
	_, lacking := imagetest.Layout(t, at("lacking"), one)
	for name, text := range map[string]string{
		"empty": "", "text": strings.Repeat("no tar at all\n", 100), "zipped.tar": "\x1f\x8b\x08and more",
		"damaged/blobs/sha256/" + damaged[0].Encoded(): "{}",
		"other.tar": string(imagetest.Layer(t, imagetest.File("x", "", 0o644))),
		"json.tar":  string(imagetest.Layer(t, imagetest.File("manifest.json", "[", 0o644))),
		"bare.tar":  string(imagetest.Layer(t, imagetest.File("manifest.json", "[]", 0o644))),
		"cut.tar":   string(imagetest.Layer(t, imagetest.File("a", strings.Repeat("a", 4000), 0o644))[:2000]),
		"noconf.tar": string(imagetest.Layer(t,
			imagetest.File("manifest.json", `[{"Config":"../../../../etc/hostname","Layers":["/etc/passwd"]}]`, 0o644))),
		"digest.tar": string(imagetest.Layer(t,
			imagetest.File("index.json", `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:../../../etc/passwd"}]}`, 0o644))),
		"fewer.tar": string(imagetest.Layer(t, imagetest.File("c", `{"os":"linux","rootfs":{"diff_ids":[]}}`, 0o644),
			imagetest.File("manifest.json", `[{"Config":"c","Layers":["l"]}]`, 0o644))),
		"algorithm.tar": string(imagetest.Layer(t, imagetest.File("c", `{"os":"linux","rootfs":{"diff_ids":["md5:00"]}}`, 0o644),
			imagetest.File("manifest.json", `[{"Config":"c","Layers":["l"]}]`, 0o644))),
	} {
		if err := os.WriteFile(at(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(at("lacking/blobs/sha256/" + lacking[0].Encoded())); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", at("link")); err != nil {
		t.Fatal(err)
	}
	none := digest.FromString("none").String()
	for ref, want := range map[string]string{
		"":                                     "no such file",
		"debian":                               "no such file; an image is a file here",
		at("missing.tar"):                      "no such file",
		"/dev/null":                            "neither a file nor a directory",
		at("empty"):                            "is no image",
		at("text"):                             "is no tar",
		at("cut.tar"):                          "cut off",
		at("zipped.tar"):                       "compressed by gzip",
		at("other.tar"):                        "neither an index.json",
		at("json.tar"):                         "manifest.json cannot be read",
		at("bare.tar"):                         "has no image",
		at("noconf.tar"):                       "../etc/hostname cannot be read",
		at("digest.tar"):                       "refers to the digest",
		at("fewer.tar"):                        "has 1 layers, and its configuration 0",
		at("algorithm.tar"):                    `a layer whose digest is "md5:00"`,
		at("damaged"):                          damaged[0].Encoded() + " is damaged",
		at("lacking"):                          "lacks blobs/sha256/" + lacking[0].Encoded(),
		at("link"):                             "is no image",
		at("one.tar@sha256:12"):                "is no digest",
		at("one.tar@") + none:                  "no such digest in the file: it has " + one.ID(t).String(),
		at("layout@") + none:                   "no such digest in the file: it has " + one.ID(t).String(),
		at("both.tar"):                         "several images: name one of @" + one.ID(t).String() + " @" + two.ID(t).String(),
		at("foreign.tar"):                      "wrong platform: it is for linux/" + foreign,
		at("foreign"):                          "wrong platform: it is for linux/" + foreign,
		at("foreign@") + manifests[0].String(): "wrong platform: it is for linux/" + foreign,
	} {
		i, err := image.Open(ref)
		var ie *image.Error
		if !errors.As(err, &ie) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
		if err == nil {
			i.Close()
		}
	}
	for _, id := range []digest.Digest{one.ID(t), two.ID(t)} {
		i, err := image.Open(at("both.tar@") + id.String())
		if err != nil || i.ID != id {
			t.Errorf("%s of two: %v", id, err)
			continue
		}
		i.Close()
	}
}
