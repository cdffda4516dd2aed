package sandboxtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tree makes the files of a kind below dir.
func tree(kind, dir string, args ...string) error {
	if kind == "link" {
		_ = os.Remove(dir)
		return os.Symlink(args[0], dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, mode uint32) error {
		return errors.Join(os.WriteFile(at(name), []byte(name), 0o600), unix.Chmod(at(name), mode))
	}
	switch kind {
	case "good":
		return errors.Join(write("run", 0o755), write("read", 0o440), os.MkdirAll(at("a/b"), 0o755), write("a/b/deep", 0o644),
			os.Mkdir(at("empty"), 0o755), os.Symlink("a/b/deep", at("link")), os.Symlink("../run", at("a/up")))
	case "hardlink":
		return errors.Join(write("one", 0o644), os.Link(at("one"), at("two")))
	case "fifo":
		return unix.Mkfifo(at("pipe"), 0o666)
	case "socket":
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrUnix{Name: at("socket")})
	case "sparse":
		return errors.Join(write("hole", 0o644), os.Truncate(at("hole"), 10<<30))
	case "many":
		for i := range 300 {
			if err := write(fmt.Sprint(i), 0o644); err != nil {
				return err
			}
		}
	case "deep":
		if err := os.Chdir(dir); err != nil {
			return err
		}
		for range 500 {
			if err := errors.Join(os.Mkdir("d", 0o755), os.Chdir("d")); err != nil {
				return err
			}
		}
	case "setuid":
		return errors.Join(write("u", 0o4755), write("g", 0o2755), write("t", 0o1755), unix.Chmod(dir, 0o2755))
	case "odd":
		for _, name := range odd {
			if err := write(name, 0o644); err != nil {
				return err
			}
		}
	case "swap": // a directory with a link to another, until it is killed
		if err := errors.Join(os.Mkdir(at("d"), 0o755), write("d/passwd", 0o644), os.Symlink("/etc", at("e"))); err != nil {
			return err
		}
		fmt.Println("swapping")
		for {
			if err := unix.Renameat2(unix.AT_FDCWD, at("d"), unix.AT_FDCWD, at("e"), unix.RENAME_EXCHANGE); err != nil {
				return err
			}
		}
	case "grow": // a file that gets longer and shorter, until it is killed
		f, err := os.Create(at("file"))
		if err != nil {
			return err
		}
		fmt.Println("growing")
		for data := []byte(strings.Repeat("x", 1<<20)); err == nil; err = f.Truncate(0) {
			for i := range int64(4) {
				if _, err := f.WriteAt(data, i<<20); err != nil {
					return err
				}
			}
		}
		return err
	}
	return nil
}
