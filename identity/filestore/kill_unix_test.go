//go:build unix

package filestore_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stepward/stepward/identity/filestore"
)

const writerDir = "STEPWARD_FILESTORE_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		write(dir)
	}
	os.Exit(m.Run())
}

// write puts values and gives the store new keys until it is killed, and says what it has done.
func write(dir string) {
	ctx := context.Background()
	s, err := filestore.Open(filestore.Config{Dir: dir})
	for i := 1; err == nil; i++ {
		if _, err = s.Put(ctx, "acme", "token", fmt.Append(nil, "value ", i)); err == nil {
			fmt.Println(i)
			if i%2 == 0 {
				err = s.Rekey(ctx, nil)
			}
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// Killed at any moment, a writer leaves a store that has all that it acknowledged, and
// nothing by half.
func TestKilledWriter(t *testing.T) {
	for n := range 8 {
		c := place(t)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerDir+"="+c.Dir)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		acknowledged := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			i, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Error(lines.Text())
				break
			}
			acknowledged = i
			if i == n+1 { // and what was under way with it
				cmd.Process.Kill()
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		s := open(t, c)
		versions, err := s.Versions(t.Context(), "acme", "token")
		if err != nil || len(versions) < acknowledged || len(versions) > acknowledged+1 {
			t.Fatalf("%d versions, %v; %d were acknowledged", len(versions), err, acknowledged)
		}
		for i, v := range versions {
			if got, err := get(s, "acme", "token", v.Version); err != nil || got != fmt.Sprint("value ", i+1) {
				t.Errorf("version %s: %q, %v", v.Version, got, err)
			}
		}
		put(t, s, "acme", "token", "after")
		if err := s.Rekey(t.Context(), nil); err != nil {
			t.Error(err)
		}
		s.Close()
		wants(t, open(t, c), "acme", "token", "after")
		leftovers(t, c.Dir, len(versions)+1)
	}
}

func leftovers(t *testing.T, dir string, records int) {
	t.Helper()
	files, err := os.ReadDir(dir + "/records")
	if err != nil || len(files) != records {
		t.Errorf("%d records, %v, want %d", len(files), err, records)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") {
			t.Errorf("%s was left", f.Name())
		}
	}
}
