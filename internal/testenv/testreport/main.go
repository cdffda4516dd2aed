// Command testreport runs the tests of modules, prints what go test would, and ends
// with the tests that were skipped, why, three counts, and the last lines of each test
// that failed, the innermost first: whoever has only the end of it knows what failed.
//
//	go run ./internal/testenv/testreport -flags "-timeout 15m" -first "./slow" . other/module
//
// The first module's are run beside those of the others, of which one comes after the
// other: the tests of both wait most of the time. The packages that take the longest
// come first, or the last of them would end alone.
//
// It exits with status 1 if a test or a package failed.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

func main() {
	flags := flag.String("flags", "", "of go test")
	first := flag.String("first", "", "packages of the first module that come before its others")
	packages := flag.String("packages", "./...", "packages of each module")
	flag.Parse()
	out, in := io.Pipe()
	var failed atomic.Bool
	test := func(module string, first ...string) {
		c := exec.Command("go", slices.Concat([]string{"test", "-json"}, strings.Fields(*flags), first, strings.Fields(*packages))...)
		c.Dir, c.Stdout, c.Stderr = module, &lineWriter{to: in}, os.Stderr
		if err := c.Run(); err != nil {
			fmt.Fprintf(os.Stderr, "%s: go test: %v\n", module, err)
			failed.Store(true)
		}
	}
	var all sync.WaitGroup
	if modules := flag.Args(); len(modules) > 0 {
		all.Go(func() { test(modules[0], strings.Fields(*first)...) })
		all.Go(func() {
			for _, m := range modules[1:] {
				test(m)
			}
		})
	}
	go func() {
		all.Wait()
		_ = in.Close() // never fails
	}()
	if !report(out, os.Stdout) || failed.Load() {
		os.Exit(1)
	}
}

// A lineWriter passes on lines as a whole: another may write between them.
type lineWriter struct {
	to   io.Writer
	rest []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	end := bytes.LastIndexByte(w.rest, '\n') + 1
	if end == 0 {
		return len(p), nil
	}
	_, err := w.to.Write(w.rest[:end])
	w.rest = w.rest[end:]
	return len(p), err
}

// An event is what go doc test2json describes.
type event struct {
	Action, Package, Test, Output, ImportPath string
}

// A test is one test, or by no name what its package says besides.
type test struct{ pkg, name string }

// report copies the stream's readable part and sums it up. The output of a
// test is held back until it is known to have failed.
func report(in io.Reader, out io.Writer) (ok bool) {
	held := map[test][]string{}
	counts := map[string]int{}
	var skips []string
	var failed failures
	ok = true
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line == "" && err != nil {
			break
		}
		var e event
		if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
			fmt.Fprint(out, line) // not from a test: say, a message of go itself
			continue
		}
		key := test{e.Package, e.Test}
		switch e.Action {
		case "output":
			held[key] = append(held[key], e.Output)
			if e.Test == "" && e.Output != "PASS\n" {
				fmt.Fprint(out, e.Output)
			}
		case "build-output":
			key = test{pkg: e.ImportPath}
			held[key] = append(held[key], e.Output)
			fmt.Fprint(out, e.Output)
		case "build-fail":
			ok = false
			failed.add(test{pkg: e.ImportPath}, held)
		case "pass", "fail", "skip":
			if e.Action == "fail" {
				ok = false
				if e.Test != "" {
					fmt.Fprint(out, strings.Join(held[key], ""))
				}
				failed.add(key, held)
			}
			if e.Test != "" {
				counts[e.Action]++
				if e.Action == "skip" {
					skips = append(skips, e.Package+"."+e.Test+": "+reason(held[key]))
				}
			}
			delete(held, key)
		}
	}
	// A process that died, or go test itself, leaves tests without an end.
	for _, key := range slices.SortedFunc(maps.Keys(held), test.compare) {
		if key.name != "" {
			ok = false
			fmt.Fprintf(out, "--- UNFINISHED: %s.%s\n%s", key.pkg, key.name, strings.Join(held[key], ""))
			failed.add(key, held)
		}
	}
	if len(skips) > 0 {
		slices.Sort(skips)
		fmt.Fprintf(out, "\nSkipped:\n  %s\n", strings.Join(skips, "\n  "))
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", counts["pass"], counts["fail"], counts["skip"])
	failed.print(out)
	return ok
}

// reason is what the test said, without the lines of the framework.
func reason(output []string) string {
	var said []string
	for _, text := range output {
		text = strings.TrimSpace(text)
		if text != "" && !strings.HasPrefix(text, "=== ") && !strings.HasPrefix(text, "--- ") {
			said = append(said, text)
		}
	}
	return strings.Join(said, " ")
}
