// Package readme checks that the Go code in the project's documents is code
// that compiles: a reader copies it.
package readme

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

var fence = regexp.MustCompile("(?ms)^```go\n(.*?)^```")

// blocks returns the fenced Go code of a Markdown text.
func blocks(markdown string) []string {
	var found []string
	for _, m := range fence.FindAllStringSubmatch(markdown, -1) {
		found = append(found, m[1])
	}
	return found
}

// check returns what is wrong with a block, or nil. A block with a package
// clause must compile within the module at root. Any other must stand, indented
// as one likes, in a Go file of the module, which compiles or it would not pass.
func check(root, block string, sources []string) error {
	if strings.HasPrefix(block, "package ") || strings.Contains(block, "\npackage ") {
		return compile(root, block)
	}
	want := normal(block)
	for _, source := range sources {
		if strings.Contains(source, want) {
			return nil
		}
	}
	return fmt.Errorf("in no Go file of the module:\n%s", block)
}

// compile vets a program as if it were a folder of the module.
func compile(root, program string) error {
	dir, err := os.MkdirTemp("", "readme-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "main.go")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		return err
	}
	// Files named on the command line are resolved in the module of the working directory.
	cmd := exec.Command("go", "vet", file)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// normal makes two pieces of code comparable that differ in indentation only.
func normal(code string) string {
	var b strings.Builder
	for line := range strings.Lines(code) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line)
			b.WriteByte('\n')
		}
	}
	return b.String()
}
