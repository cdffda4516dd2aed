package sitework

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/stepward/stepward/workflow"
)

// A Parcel is what pack writes.
type Parcel struct {
	Dir   string
	Files []File
}

// Written is what pack has written.
type Written struct {
	Files []string
	Bytes int
}

// manifest lists, in the folder, the files that are ours: only those are ever
// replaced or removed.
const manifest = ".stepward-quickstart"

// packSite writes the site. A worker may die after this and before its
// checkpoint, and then it runs again: so it may find any part of its own work
// there, and ends with the same files.
func packSite(ctx context.Context, p Parcel) (Written, error) {
	dir, err := OpenFolder(p.Dir)
	if err != nil {
		return Written{}, workflow.Permanent(err)
	}
	defer dir.Close()
	var w Written
	for _, f := range p.Files {
		w.Files = append(w.Files, f.Name)
		w.Bytes += len(f.HTML)
	}
	old, err := dir.ReadFile(manifest)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Written{}, err
	}
	ours := strings.Fields(string(old))
	// Names go onto the list before their files exist, and stay until they do not.
	list := slices.Compact(slices.Sorted(slices.Values(slices.Concat(ours, w.Files))))
	if err := dir.WriteFile(manifest, lines(list), 0o644); err != nil {
		return Written{}, err
	}
	for _, name := range ours {
		if slices.Contains(w.Files, name) {
			continue
		}
		if err := dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Written{}, err
		}
	}
	for _, f := range p.Files {
		if err := ctx.Err(); err != nil {
			return Written{}, context.Cause(ctx)
		}
		if err := dir.WriteFile(f.Name, []byte(f.HTML), 0o644); err != nil {
			return Written{}, err
		}
	}
	return w, dir.WriteFile(manifest, lines(w.Files), 0o644)
}

func lines(names []string) []byte { return []byte(strings.Join(names, "\n") + "\n") }

// OpenFolder makes the folder of a site if need be, and opens it. It refuses one
// that has files of somebody else. Through an [os.Root] no name leads out of it.
func OpenFolder(path string) (*os.Root, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(dir.FS(), ".")
	ours := len(entries) == 0 || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), manifest) })
	if err == nil && !ours {
		err = fmt.Errorf("%s is not empty and was not made by this program: name another folder", path)
	}
	if err == nil {
		err = tryWrite(dir)
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// tryWrite finds out whether files can be written, which no mode bits tell.
func tryWrite(dir *os.Root) error {
	const probe = manifest + ".probe"
	if err := dir.WriteFile(probe, nil, 0o644); err != nil {
		return err
	}
	return dir.Remove(probe)
}
