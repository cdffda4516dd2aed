package sandbox

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// take unpacks a stream of what a tool runner that was taken over might send, into
// a directory beside which nothing may change.
func take(t testing.TB, raw []byte, o DownloadOptions) (dir string, err error) {
	t.Helper()
	above := t.TempDir()
	dir = filepath.Join(above, "tree")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	u := unpacker{root: root, o: o, links: map[[32]byte]bool{}}
	err = u.unpack(tar.NewReader(bytes.NewReader(raw)))
	if beside, rerr := os.ReadDir(above); rerr != nil || len(beside) != 1 {
		t.Fatalf("it made %v beside the tree: %v", beside, rerr)
	}
	return dir, err
}

func pour(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for _, h := range headers {
		h.Mode = 0o644
		if h.Typeflag == tar.TypeReg {
			h.Size = 3
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, "bad"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return raw.Bytes()
}

var wide = DownloadOptions{MaxBytes: 1 << 20, MaxFiles: 100, MaxDepth: 10}

func TestUnpackHostile(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	dir := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name + "/"} }
	for what, entries := range map[string][]tar.Header{
		"above":                      {file("../x")},
		"above, by a directory":      {dir(".."), file("x")},
		"absolute":                   {file("/tmp/x")},
		"around":                     {file("a/../../x")},
		"not clean":                  {dir("a"), file("a//x")},
		"no name":                    {dir(".")},
		"link to a file outside":     {link("l", "/etc/passwd")},
		"link above":                 {link("l", "../x")},
		"link above from a dir":      {dir("d"), link("d/l", "../../x")},
		"link up behind a link":      {link("here", "."), link("l", "here/../x")},
		"empty link":                 {link("l", "")},
		"link of another system":     {link("l", `..\x`)},
		"through a link":             {dir("d"), link("l", "d"), file("l/x")},
		"link over a link":           {link("l", "a"), link("l", "b")},
		"hard link":                  {file("f"), {Typeflag: tar.TypeLink, Name: "l", Linkname: "f"}},
		"hard link outside":          {{Typeflag: tar.TypeLink, Name: "l", Linkname: "/etc/passwd"}},
		"device":                     {{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}},
		"disk":                       {{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}},
		"pipe":                       {{Typeflag: tar.TypeFifo, Name: "p"}},
		"unknown type":               {{Typeflag: 'Z', Name: "z"}},
		"the same file twice":        {file("f"), file("f")},
		"a file that is a directory": {dir("d"), file("d")},
		"a directory that is a file": {file("f"), dir("f")},
	} {
		got, err := take(t, pour(t, entries...), wide)
		var te *TreeError
		if !errors.As(err, &te) {
			t.Errorf("%s: %v, want a TreeError", what, err)
		}
		if name := entries[len(entries)-1].Name; filepath.IsLocal(name) && what != "the same file twice" {
			if raw, err := os.ReadFile(filepath.Join(got, name)); err == nil && string(raw) == "bad" && what != "a directory that is a file" {
				t.Errorf("%s: it was written", what)
			}
		}
	}
	if _, err := take(t, pour(t, dir("a"), link("a/up", "../b"), file("b"), link("c", "a/up"), dir("a")), wide); err != nil {
		t.Errorf("what is harmless: %v", err)
	}
	whole := pour(t, file("f"), file("g"))
	if _, err := take(t, whole[:514], wide); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a stream that breaks off: %v", err)
	}
}

func TestUnpackLimits(t *testing.T) {
	files := pour(t, tar.Header{Typeflag: tar.TypeReg, Name: "a"}, tar.Header{Typeflag: tar.TypeReg, Name: "b/c/d"})
	for limit, o := range map[string]DownloadOptions{
		"MaxFiles": {MaxFiles: 1, MaxBytes: 100, MaxDepth: 9}, "MaxBytes": {MaxFiles: 9, MaxBytes: 5, MaxDepth: 9}, "MaxDepth": {MaxFiles: 9, MaxBytes: 100, MaxDepth: 2},
	} {
		o.Skip = func(*TreeError) {}
		_, err := take(t, files, o)
		var te *TreeError
		if !errors.As(err, &te) || te.Limit != limit {
			t.Errorf("%s: %v", limit, err)
		}
	}
	var huge bytes.Buffer // so much that the sum would be negative
	w := tar.NewWriter(&huge)
	for _, size := range []int64{1, math.MaxInt64} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint(size), Size: size, Format: tar.FormatGNU}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	var te *TreeError
	if _, err := take(t, append(huge.Bytes(), make([]byte, 4096)...), DownloadOptions{MaxFiles: 9, MaxBytes: 100, MaxDepth: 9}); !errors.As(err, &te) || te.Limit != "MaxBytes" {
		t.Errorf("a file of 8 EiB: %v", err)
	}
}

// FuzzUnpack unpacks any bytes: files below the tree or an error, nothing beside
// it, and no link that leads out.
func FuzzUnpack(f *testing.F) {
	f.Add(pour(f, tar.Header{Typeflag: tar.TypeReg, Name: "a"}, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "a"}))
	f.Add(pour(f, tar.Header{Typeflag: tar.TypeReg, Name: "../a"}, tar.Header{Typeflag: tar.TypeDir, Name: "d/"}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir, _ := take(t, raw, DownloadOptions{MaxBytes: 1 << 20, MaxFiles: 50, MaxDepth: 5, Skip: func(*TreeError) {}})
		links, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, l := range links {
			to, err := filepath.EvalSymlinks(l)
			if root, _ := filepath.EvalSymlinks(dir); err == nil && to != root && !bytes.HasPrefix([]byte(to), []byte(root+"/")) {
				t.Errorf("%q leads to %q", l, to)
			}
		}
	})
}
