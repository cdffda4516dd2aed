// Matrix runs the tests that hold the cases of package sandboxtest on the backends
// that are its arguments, and writes what became of each case to docs: a column for
// each backend, and the table of all columns there are. A case that failed leaves
// its column as it was.
//
//	go run ./sandbox/sandboxtest/matrix local docker
//
// Without arguments it writes the table of the columns that are there.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	root, err := moduleRoot()
	if err == nil {
		err = write(root, os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, serr := os.Stat(filepath.Join(dir, "sandbox", "sandboxtest")); serr == nil {
			return dir, nil
		}
		if dir == "/" {
			err = errors.New("run it in the repository")
		}
	}
	return "", err
}

func write(root string, names []string) error {
	for _, name := range names {
		if !slices.Contains(backends, name) {
			return fmt.Errorf("no backend %q: there are %q", name, backends)
		}
	}
	var failed error
	for _, name := range names {
		c, err := run(root, name)
		if err == nil {
			err = os.WriteFile(columnFile(root, name), []byte(c.String()), 0o644)
		}
		failed = errors.Join(failed, err)
	}
	all, err := columns(root)
	if err == nil {
		err = os.WriteFile(filepath.Join(root, tableFile), []byte(table(all)), 0o644)
	}
	return errors.Join(failed, err)
}
