// Command testreport reads what go test -json prints, prints it as go test
// does, and ends with the tests that were skipped, why, and three counts.
//
//	go test -json ./... | go run ./internal/testenv/testreport
//
// It exits with status 1 if a test or a package failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	if !report(os.Stdin, os.Stdout) {
		os.Exit(1)
	}
}

// An event is what go doc test2json describes.
type event struct {
	Action, Package, Test, Output, ImportPath string
}

// A test is what is known about one test while it runs.
type test struct{ pkg, name string }

// report copies the stream's readable part and sums it up. The output of a
// test is held back until it is known to have failed.
func report(in io.Reader, out io.Writer) (ok bool) {
	held := map[test][]string{}
	counts := map[string]int{}
	var skips []string
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
			if e.Test == "" {
				if e.Output != "PASS\n" {
					fmt.Fprint(out, e.Output)
				}
			} else {
				held[key] = append(held[key], e.Output)
			}
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "build-fail":
			ok = false
		case "pass", "fail", "skip":
			if e.Action == "fail" {
				ok = false
				for _, text := range held[key] {
					fmt.Fprint(out, text)
				}
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
	for key, texts := range held {
		ok = false
		fmt.Fprintf(out, "--- UNFINISHED: %s.%s\n%s", key.pkg, key.name, strings.Join(texts, ""))
	}
	if len(skips) > 0 {
		slices.Sort(skips)
		fmt.Fprintf(out, "\nSkipped:\n  %s\n", strings.Join(skips, "\n  "))
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", counts["pass"], counts["fail"], counts["skip"])
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
