// Package apptest runs the small examples as tests.
package apptest

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/internal/testenv"
)

// Output runs an example and compares what it prints, line by line.
func Output(t *testing.T, example func(context.Context, *app.App) error, want string) {
	t.Helper()
	Same(t, Printed(t, example), want)
}

// Same compares what was printed with what should be, line by line.
func Same(t *testing.T, got, want string) {
	t.Helper()
	if trim(got) != trim(want) {
		t.Errorf("it printed\n%s\nand should print\n%s", trim(got), trim(want))
	}
}

// Printed runs an example and returns what it prints.
func Printed(t *testing.T, example func(context.Context, *app.App) error) string {
	t.Helper()
	testenv.PostgresURL(t) // skips where there is none
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	printed := make(chan string)
	go func() {
		text, err := io.ReadAll(r)
		if err != nil {
			t.Error(err)
		}
		printed <- string(text)
	}()
	err = app.Run(t.Context(), example)
	os.Stdout = stdout
	w.Close()
	got := <-printed
	if err != nil {
		t.Errorf("the example failed: %v", err)
	}
	return got
}

// trim leaves the indentation of expected text out.
func trim(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}
