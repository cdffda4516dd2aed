package image_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/image"
	"github.com/stepward/stepward/internal/image/imagetest"
)

// newCache returns one in a directory of the test, which has nothing else. It is in
// memory where that can be, for a disk that others use, too, takes long to be in step.
func newCache(t testing.TB) image.Cache {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "stepward-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return image.Cache{Dir: filepath.Join(dir, "outside", "images"), Max: 1 << 20}
}

// unpack returns the tree of an image of layers.
func unpack(t testing.TB, c image.Cache, layers ...[]byte) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	imagetest.Save(t, path, imagetest.Image{Layers: layers})
	i, err := image.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	r, err := c.Root(context.Background(), i)
	if err != nil {
		return "", err
	}
	r.Close()
	return r.Path, nil
}

// tree lists what is in a tree, but for what every tree has.
func tree(t testing.TB, path string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(path, name)
		switch rel {
		case ".", "dev", "proc", "tmp", "workspace", "etc", "etc/passwd", "etc/group", "etc/hosts", "etc/hostname", "etc/resolv.conf":
			return nil
		}
		switch {
		case d.IsDir():
			out[rel] = "/"
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(name)
			out[rel] = "-> " + to
			return err
		default:
			raw, err := os.ReadFile(name)
			out[rel] = string(raw)
			return err
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return out
}

// Layers make what a container engine makes of them.
func TestLayers(t *testing.T) {
	f := func(name string) imagetest.Entry { return imagetest.File(name, name, 0o644) }
	d := func(name string) imagetest.Entry { return imagetest.Dir(name, 0o755) }
	type layer = []imagetest.Entry
	for _, c := range []struct {
		name   string
		layers []layer
		want   map[string]string
	}{
		{"whiteout of a file", []layer{{f("a"), f("b")}, {f(".wh.a")}}, map[string]string{"b": "b"}},
		{"whiteout of a directory", []layer{{d("d"), f("d/a"), f("b")}, {f(".wh.d")}}, map[string]string{"b": "b"}},
		{"whiteout, and made anew", []layer{{d("d"), f("d/a")}, {d("d"), f("d/b"), f(".wh.d")}}, map[string]string{"d": "/", "d/b": "d/b"}},
		{"made anew before the whiteout", []layer{{f("a")}, {imagetest.File("a", "new", 0o644), f(".wh.a")}}, map[string]string{"a": "new"}},
		{"whiteout of nothing", []layer{{f("a")}, {f(".wh.b"), f("no/.wh.c")}}, map[string]string{"a": "a", "no": "/"}},
		{"opaque directory", []layer{{d("d"), f("d/a"), d("d/e"), f("d/e/b")}, {d("d"), f("d/c"), f("d/.wh..wh..opq"), f("d/e/x")}},
			map[string]string{"d": "/", "d/c": "d/c", "d/e": "/", "d/e/x": "d/e/x"}},
		{"notes of aufs", []layer{{f(".wh..wh.aufs"), f(".wh..wh.plnk/1"), f("a")}}, map[string]string{"a": "a", ".wh..wh.plnk": "/", ".wh..wh.plnk/1": ".wh..wh.plnk/1"}},
		{"file over directory", []layer{{d("d"), f("d/a")}, {f("d")}}, map[string]string{"d": "d"}},
		{"directory over file", []layer{{f("d")}, {d("d"), f("d/a")}}, map[string]string{"d": "/", "d/a": "d/a"}},
		{"directory over link", []layer{{d("e"), f("e/a"), imagetest.Link("d", "e")}, {d("d"), f("d/b")}},
			map[string]string{"e": "/", "e/a": "e/a", "d": "/", "d/b": "d/b"}},
		{"file over link", []layer{{f("a"), imagetest.Link("l", "a")}, {imagetest.File("l", "new", 0o644)}}, map[string]string{"a": "a", "l": "new"}},
		{"through a link", []layer{{d("usr/lib"), imagetest.Link("lib", "usr/lib")}, {f("lib/x")}},
			map[string]string{"usr": "/", "usr/lib": "/", "usr/lib/x": "lib/x", "lib": "-> usr/lib"}},
		{"through an absolute link", []layer{{d("run"), imagetest.Link("var/run", "/run")}, {f("var/run/x"), f("var/run/.wh.y")}},
			map[string]string{"run": "/", "run/x": "var/run/x", "var": "/", "var/run": "-> /run"}},
		{"through a link above the top", []layer{{d("run"), imagetest.Link("l", "../../../run")}, {f("l/x")}},
			map[string]string{"run": "/", "run/x": "l/x", "l": "-> ../../../run"}},
		{"hard link", []layer{{f("a")}, {imagetest.Hard("b", "a"), imagetest.Hard("c/d", "/b")}}, map[string]string{"a": "a", "b": "a", "c": "/", "c/d": "a"}},
		{"hard link to what a later layer replaces", []layer{{f("a")}, {imagetest.Hard("b", "a")}, {imagetest.File("a", "new", 0o644)}},
			map[string]string{"a": "new", "b": "a"}},
		{"hard link to itself", []layer{{f("a")}, {imagetest.Hard("a", "./a")}}, map[string]string{"a": "a"}},
		{"odd names", []layer{{f("./a"), f("/b"), f("c//d"), f("e\nf"), f("-rf"), f("\xff")}},
			map[string]string{"a": "./a", "b": "/b", "c": "/", "c/d": "c//d", "e\nf": "e\nf", "-rf": "-rf", "\xff": "\xff"}},
		{"not what mounts need", []layer{{f("proc"), imagetest.Link("dev", "/etc"), imagetest.Link("tmp", "var/tmp"), d("var/tmp"), f("workspace")}},
			map[string]string{"var": "/", "var/tmp": "/"}},
		{"devices and pipes", []layer{{f("a"),
			{Header: tar.Header{Typeflag: tar.TypeChar, Name: "mem", Devmajor: 1, Devminor: 1, Mode: 0o666}},
			{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8, Mode: 0o666}},
			{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o666}}}}, map[string]string{"a": "a"}},
		{"none", nil, map[string]string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, imagetest.Layer(t, l...))
			}
			path, err := unpack(t, newCache(t), layers...)
			if err != nil {
				t.Fatal(err)
			}
			if got := tree(t, path); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%q\nwant %q", got, c.want)
			}
			for _, dir := range []string{"dev", "proc", "tmp", "workspace", "etc"} {
				if info, err := os.Lstat(filepath.Join(path, dir)); err != nil || info.Mode() != fs.ModeDir|0o555 {
					t.Errorf("%s: %v, %v", dir, info, err)
				}
			}
		})
	}
}

// Everybody has the rights of uid and gid 10001, and no more; times are kept.
func TestRights(t *testing.T) {
	owned := func(e imagetest.Entry, uid, gid int) imagetest.Entry {
		e.Uid, e.Gid, e.ModTime = uid, gid, time.Unix(1e9, 0)
		return e
	}
	capable := owned(imagetest.File("capable", "", 0o755), 0, 0)
	capable.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00", "SCHILY.xattr.user.note": "x"}
	closed := imagetest.Dir("closed", 0o700)
	path, err := unpack(t, newCache(t), imagetest.Layer(t,
		owned(imagetest.File("open", "", 0o644), 0, 0), owned(imagetest.File("shadow", "", 0o640), 0, 42), owned(imagetest.File("su", "", 0o6755), 0, 0),
		owned(imagetest.File("own", "", 0o700), 10001, 0), owned(imagetest.File("group", "", 0o750), 0, 10001), owned(imagetest.File("less", "", 0o044), 10001, 10001),
		owned(closed, 0, 0), imagetest.File("closed/a", "", 0o644), owned(imagetest.Dir("home", 0o700), 10001, 10001), owned(imagetest.Dir("shared", 0o1777), 0, 0), capable,
		imagetest.Dir(".", 0o700),
	))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		"open": 0o444, "shadow": 0, "su": 0o555, "own": 0o555, "group": 0o555, "less": 0, "capable": 0o555,
		"closed": fs.ModeDir, "home": fs.ModeDir | 0o555, "shared": fs.ModeDir | 0o555, ".": fs.ModeDir | 0o555,
		"etc/passwd": 0o444, "etc": fs.ModeDir | 0o555,
	} {
		info, err := os.Lstat(filepath.Join(path, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, info, err, want)
		} else if name == "open" || name == "home" {
			if !info.ModTime().Equal(time.Unix(1e9, 0)) {
				t.Errorf("%s: time %v", name, info.ModTime())
			}
		}
	}
	if n, err := unix.Llistxattr(path+"/capable", make([]byte, 1024)); err == nil && n != 0 {
		t.Errorf("%d bytes of names of extended attributes", n)
	}
}

// Only what an image lacks is made up, but for the names of the sandbox itself.
func TestComplete(t *testing.T) {
	path, err := unpack(t, newCache(t), imagetest.Layer(t, imagetest.File("etc/passwd", "theirs", 0o644),
		imagetest.File("etc/hosts", "theirs", 0o644), imagetest.Link("etc/hostname", "/proc/sys/kernel/hostname")))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"passwd": "theirs", "group": "sandbox:", "hosts": "127.0.0.1 ", "hostname": "sandbox\n", "resolv.conf": "nameserver 127.0.0.1\n"} {
		if got, err := os.ReadFile(path + "/etc/" + name); err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	path, err = unpack(t, newCache(t), imagetest.Layer(t, imagetest.Dir("real", 0o755), imagetest.Link("etc", "/real")))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path + "/real/hostname"); err != nil || string(got) != "sandbox\n" {
		t.Errorf("/etc is a link: %q, %v", got, err)
	}
}

// Layers that would write elsewhere do not, and are named; nothing of the image stays.
func TestHostileLayers(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.Mkdir(victim, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(victim+"/file", []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := func(name string) imagetest.Entry { return imagetest.File(name, "hostile", 0o777) }
	var loop []imagetest.Entry
	for i := range 50 {
		loop = append(loop, imagetest.Link(fmt.Sprint("l", i), fmt.Sprint("l", i+1)))
	}
	for name, c := range map[string]struct {
		entries []imagetest.Entry
		want    string // of the error; empty if there is none, and all stays in the tree
	}{
		"up":                          {[]imagetest.Entry{f("../x")}, "leads elsewhere"},
		"down and up":                 {[]imagetest.Entry{imagetest.Dir("a", 0o755), f("a/../../x")}, "leads elsewhere"},
		"absolute":                    {[]imagetest.Entry{f(victim + "/file")}, ""},
		"link, and a file through it": {[]imagetest.Entry{imagetest.Link("l", victim), f("l/file")}, ""},
		"link up, and through it":     {[]imagetest.Entry{imagetest.Link("l", strings.Repeat("../", 20)+victim[1:]), f("l/file"), f("l/.wh.file")}, ""},
		"link, and a file over it":    {[]imagetest.Entry{imagetest.Link("l", victim+"/file"), f("l")}, ""},
		"link, and a mode through it": {[]imagetest.Entry{imagetest.Link("l", victim), imagetest.Dir("l", 0)}, ""},
		"links in a circle":           {[]imagetest.Entry{imagetest.Link("a", "b"), imagetest.Link("b", "a"), f("a/x")}, "too many"},
		"many links":                  {append(loop, f("l0/x")), "too many"},
		"hard link up":                {[]imagetest.Entry{imagetest.Hard("h", "../../victim/file")}, "leads elsewhere"},
		"hard link out":               {[]imagetest.Entry{imagetest.Hard("h", victim+"/file")}, "no such file"},
		"hard link through a link":    {[]imagetest.Entry{imagetest.Link("l", victim), imagetest.Hard("h", "l/file")}, "no such file"},
		"hard link to a link":         {[]imagetest.Entry{imagetest.Link("l", victim+"/file"), imagetest.Hard("h", "l"), f("h")}, ""},
		"hard link to a directory":    {[]imagetest.Entry{imagetest.Dir("d", 0o755), imagetest.Hard("h", "d")}, "a directory"},
		"hard link to the root":       {[]imagetest.Entry{imagetest.Hard("h", "/")}, "leads elsewhere"},
		"hard link within its own":    {[]imagetest.Entry{imagetest.Dir("d", 0o755), f("d/a"), imagetest.Hard("d", "d/a")}, "no such file"},
		"whiteout of what is above":   {[]imagetest.Entry{imagetest.Dir("d", 0o755), f("d/.wh...")}, "hides no file"},
		"whiteout of itself":          {[]imagetest.Entry{imagetest.Dir("d", 0o755), f("d/.wh..")}, "hides no file"},
		"whiteout of nothing":         {[]imagetest.Entry{f(".wh.")}, "hides no file"},
		"whiteout through a link":     {[]imagetest.Entry{imagetest.Link("l", victim), f("l/.wh.file"), f("l/.wh..wh..opq")}, ""},
		"whiteout of a link":          {[]imagetest.Entry{imagetest.Link("l", victim), f(".wh.l")}, ""},
		"below a file":                {[]imagetest.Entry{f("a"), f("a/b")}, "not a directory"},
		"a long name":                 {[]imagetest.Entry{f(strings.Repeat("a", 300))}, "too long"},
		"of no known type":            {[]imagetest.Entry{{Header: tar.Header{Typeflag: 'Z', Name: "z"}}}, "of type"},
	} {
		t.Run(name, func(t *testing.T) {
			cache := newCache(t)
			path, err := unpack(t, cache, imagetest.Layer(t, imagetest.Dir("base", 0o755)), imagetest.Layer(t, c.entries...))
			var ie *image.Error
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%v", err)
			case c.want != "" && (!errors.As(err, &ie) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want an error with %q", err, c.want)
			case c.want != "" && !strings.Contains(err.Error(), "layer 2"):
				t.Errorf("%v: which layer?", err)
			}
			onlyIn(t, cache, path)
			if got, err := os.ReadFile(victim + "/file"); err != nil || string(got) != "host" {
				t.Errorf("a file of the host: %q, %v", got, err)
			}
			if info, err := os.Stat(victim); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("a directory of the host: %v, %v", info, err)
			}
		})
	}
}

// onlyIn checks that a cache has the tree of one image, or none, and that nothing was
// written beside it.
func onlyIn(t testing.TB, c image.Cache, path string) {
	t.Helper()
	for dir, want := range map[string][]string{filepath.Dir(c.Dir): {filepath.Base(c.Dir)}, c.Dir: {filepath.Base(path)}} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			if !slices.Contains(want, e.Name()) && !strings.HasSuffix(e.Name(), ".lock") {
				t.Errorf("%s has %s", dir, e.Name())
			}
		}
	}
}

// What grows is stopped at the limit, and leaves nothing.
func TestBombs(t *testing.T) {
	zeros := string(make([]byte, 4<<20))
	var many []imagetest.Entry
	for i := range 400 {
		many = append(many, imagetest.File(fmt.Sprint("f", i), "", 0o644))
	}
	sparse := imagetest.Layer(t, imagetest.File("sparse", "", 0o644))
	for name, layer := range map[string][]byte{
		"large": imagetest.Layer(t, imagetest.File("large", zeros, 0o644)),
		"many":  imagetest.Layer(t, many...),
		"after": append(imagetest.Layer(t), make([]byte, 16<<20)...),
		"cut":   sparse[:600],
	} {
		for _, pack := range []string{"gzip", "zstd"} {
			t.Run(name+" "+pack, func(t *testing.T) {
				cache := newCache(t)
				path := filepath.Join(t.TempDir(), "image.tar")
				imagetest.Save(t, path, imagetest.Image{Layers: [][]byte{layer}, Pack: pack})
				i, err := image.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				defer i.Close()
				_, err = cache.Root(t.Context(), i)
				var ie *image.Error
				if !errors.As(err, &ie) || name != "cut" && !strings.Contains(err.Error(), "more than 1048576 bytes") {
					t.Errorf("%v", err)
				}
				onlyIn(t, cache, "")
			})
		}
	}
}

// A layer that is not the one of the configuration is refused, wherever it differs.
func TestDamagedLayer(t *testing.T) {
	layer := imagetest.Layer(t, imagetest.File("a", "content", 0o644))
	img := imagetest.Image{Layers: [][]byte{layer}, Pack: "gzip"}
	for name, damage := range map[string]func([]byte) []byte{
		"content": func(l []byte) []byte { l[512] ^= 1; return l },
		"end":     func(l []byte) []byte { return append(l, 0) },
		"none":    func([]byte) []byte { return nil },
		"noise":   func([]byte) []byte { return []byte("\x1f\x8bnoise") },
		"zstd":    func([]byte) []byte { return []byte("\x28\xb5\x2f\xfdnoise") },
		"xz":      func([]byte) []byte { return []byte("\xfd7zXZ\x00") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			imagetest.Layout(t, dir, img)
			blobs, err := filepath.Glob(dir + "/blobs/sha256/*")
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range blobs {
				if raw, _ := os.ReadFile(b); strings.HasPrefix(string(raw), "\x1f\x8b") {
					if err := os.WriteFile(b, damage(slices.Clone(layer)), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			i, err := image.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			cache := newCache(t)
			_, err = cache.Root(t.Context(), i)
			var ie *image.Error
			if !errors.As(err, &ie) || !strings.Contains(err.Error(), "layer") {
				t.Errorf("%v", err)
			}
			t.Log(err)
			onlyIn(t, cache, "")
		})
	}
}

// A disk that is full is said to be, and has room again.
func TestNoRoom(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root can mount a disk of 64 KiB
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cache := image.Cache{Dir: dir, Max: 1 << 20}
	_, err := unpack(t, cache, imagetest.Layer(t, imagetest.File("a", strings.Repeat("x", 100<<10), 0o644)))
	var ie *image.Error
	if !errors.As(err, &ie) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(ie.Reason, "no room to unpack it in "+dir) {
		t.Errorf("%v", err)
	}
	if _, err := unpack(t, cache, imagetest.Layer(t, imagetest.File("a", strings.Repeat("x", 20<<10), 0o644))); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// FuzzLayer has names and targets that nobody thought of: whatever comes of them is in
// the tree, or an error.
func FuzzLayer(f *testing.F) {
	for _, s := range [][2]string{{"a", "b"}, {"../x", "/etc"}, {"l", ".."}, {".wh..wh..opq", "."}, {"a/./.wh.b", "//"}, {"l/l/l", "l"}, {"", ""}, {"\x00", "\\"}} {
		f.Add(s[0], s[1], uint8(0), uint8(3))
	}
	f.Fuzz(func(t *testing.T, name, other string, how, then uint8) {
		kinds := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink}
		entries := []imagetest.Entry{
			{Header: tar.Header{Typeflag: kinds[how%4], Name: name, Linkname: other, Mode: 0o755}},
			{Header: tar.Header{Typeflag: kinds[then%4], Name: other, Linkname: name, Mode: 0o755}},
			{Header: tar.Header{Typeflag: tar.TypeReg, Name: name + "/" + other, Mode: 0o755}},
		}
		for _, e := range entries { // what no tar can say
			if err := tar.NewWriter(discard{}).WriteHeader(&e.Header); err != nil {
				return
			}
		}
		cache := newCache(t)
		path, err := unpack(t, cache, imagetest.Layer(t, imagetest.Dir("d", 0o755), imagetest.Link("l", "/")), imagetest.Layer(t, entries...))
		var ie *image.Error
		if err != nil && !errors.As(err, &ie) {
			t.Errorf("%v", err)
		}
		onlyIn(t, cache, path)
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
