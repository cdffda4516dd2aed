package image

import (
	"errors"
	"io/fs"
	"os"
	"path"

	"github.com/stepward/stepward/internal/nsroot"
)

// complete adds what a sandbox mounts on, and files that programs expect. What the
// image has there instead of a directory goes. As with a container engine, what of
// the image's /etc names hosts goes, too; its /etc/passwd and /etc/group are what
// they are.
func complete(root *os.Root, u *unpacker) error {
	u.mine, u.parent = map[string]bool{}, map[string]string{}
	for _, dir := range nsroot.MountPoints {
		if info, err := root.Lstat(dir); err == nil && !info.IsDir() {
			if err := u.remove(dir); err != nil {
				return err
			}
		}
		if _, err := u.dir(dir); err != nil {
			return err
		}
		u.dirs[dir] = attr{perm: 0o555}
	}
	etc, err := u.dir("etc")
	if err != nil {
		return err
	}
	for name, text := range nsroot.Generated {
		at := path.Join(etc, name)
		_, err := root.Lstat(at)
		switch {
		case err == nil && (name == "passwd" || name == "group"):
			continue
		case err == nil:
			err = u.remove(at)
		case errors.Is(err, fs.ErrNotExist):
			err = nil
		}
		if err == nil {
			err = root.WriteFile(at, []byte(text), 0o600)
		}
		if err == nil {
			err = root.Chmod(at, 0o444)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
