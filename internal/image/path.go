package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// dir returns the true path of a directory, which is made if it does not exist:
// links on the way lead to where they will when the tree is a root.
func (u *unpacker) dir(name string) (string, error) {
	if at, ok := u.parent[name]; ok {
		return at, nil
	}
	at, err := resolve(u.root, name, func(at string) error {
		u.dirs[at] = attr{perm: 0o555}
		return u.root.Mkdir(at, 0o700)
	})
	if err == nil {
		u.parent[name] = at
	}
	return at, err
}

// maxLinks is how many links a path may lead over.
const maxLinks = 40

// resolve returns the path without links of a directory. What is missing, absent is
// called for.
func resolve(root *os.Root, name string, absent func(at string) error) (string, error) {
	at, links := ".", 0
	for rest := strings.Split(name, "/"); len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		info, err := root.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := absent(next); err != nil {
				return "", err
			}
		case err != nil:
			return "", err
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return "", fmt.Errorf("%s: %w", name, syscall.ELOOP)
			}
			to, err := root.Readlink(next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(to) {
				at = "."
			}
			rest = append(strings.Split(to, "/"), rest...)
			continue
		case !info.IsDir():
			return "", fmt.Errorf("%s: %w", next, syscall.ENOTDIR)
		}
		at = next
	}
	return at, nil
}
