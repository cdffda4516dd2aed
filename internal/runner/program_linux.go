package runner

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/shim"
)

// A program is what a command that asks for secrets would execute.
type program struct {
	path string // of the file itself, behind all links
	name string // as it was found, behind links of its directory
	safe bool   // both are where no program of the sandbox can write
}

func (p program) String() string { return p.path }

// findProgram resolves a command's name. What is executed later is the file that was
// looked at here: by a path without links, in which nothing can be exchanged where the
// file system is read-only.
func findProgram(name, dir string, env []string) (p program, err error) {
	if dir == "" {
		dir = confine.Workspace
	}
	found, err := shim.LookPath(name, dir, env)
	if err != nil {
		return p, err
	}
	if !filepath.IsAbs(found) {
		found = filepath.Join(dir, found)
	}
	file, here, err := resolve(found)
	if err != nil {
		return p, fmt.Errorf("%s: %w", name, err)
	}
	folder, there, err := resolve(filepath.Dir(found))
	if err != nil {
		return p, fmt.Errorf("%s: %w", name, err)
	}
	return program{path: file, name: filepath.Join(folder, filepath.Base(found)), safe: here && there}, nil
}

// resolve returns the path without links of what is there, by what was opened, and whether its
// file system is read-only.
func resolve(path string) (file string, fixed bool, err error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false, err
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), buf)
	if err != nil {
		return "", false, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return "", false, err
	}
	return string(buf[:n]), st.Flags&unix.ST_RDONLY != 0, nil
}

// among reports whether a list allows the program. A name allows what has that name in
// the image, a path what is there, whoever put it there.
func (p program) among(commands []string) bool {
	for _, c := range commands {
		for _, have := range []string{p.path, p.name} {
			switch {
			case strings.HasPrefix(c, "/"):
				if have == c {
					return true
				}
			case p.safe && filepath.Base(have) == c:
				return true
			}
		}
	}
	return false
}
