//go:build linux

package devdb_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/devdb"
	"github.com/stepward/stepward/internal/testenv"
)

const localImage = "stepward-devdb-test:local"

// importImage makes an image of the Postgres that this machine has: nothing is
// pulled.
func importImage(t *testing.T, c *client.Client) {
	t.Helper()
	bin := localBin(t)
	root := t.TempDir()
	copyInto := func(paths ...string) {
		t.Helper()
		for _, p := range paths {
			if out, err := exec.Command("cp", "-rL", "--parents", p, root).CombinedOutput(); err != nil {
				t.Fatalf("%s: %s", p, out)
			}
		}
	}
	programs := []string{"/bin/sh", "/bin/sleep"}
	for _, name := range []string{"initdb", "postgres", "psql"} {
		programs = append(programs, filepath.Join(bin, name))
	}
	copyInto(programs...)
	for _, p := range []string{"--sharedir", "--pkglibdir"} {
		out, err := exec.Command(filepath.Join(bin, "pg_config"), p).Output()
		if err != nil {
			t.Fatal(err)
		}
		copyInto(strings.TrimSpace(string(out)))
	}
	libs, err := exec.Command("ldd", programs...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for word := range strings.FieldsSeq(string(libs)) {
		if filepath.IsAbs(word) && !strings.HasSuffix(word, ":") && !slices.Contains(files, word) {
			files = append(files, word)
		}
	}
	copyInto(append(files, "/usr/share/zoneinfo/UTC")...)
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0::/:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\n",
		"etc/group":  "root:x:0:\npostgres:x:999:\n",
	} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	tar := exec.Command("tar", "-C", root, "--owner=0", "--group=0", "-c", ".")
	stream, err := tar.StdoutPipe()
	if err == nil {
		err = tar.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.ImageImport(t.Context(), client.ImageImportSource{Source: stream, SourceName: "-"}, localImage,
		client.ImageImportOptions{Changes: []string{"ENV PATH=" + bin + ":/usr/bin:/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Close()
	if answer, err := io.ReadAll(resp); err != nil || strings.Contains(string(answer), "errorDetail") {
		t.Fatalf("import: %s, %v", answer, err)
	}
	if err := tar.Wait(); err != nil {
		t.Fatal(err)
	}
}

// localBin is the folder of this machine's programs.
func localBin(t *testing.T) string {
	t.Helper()
	db := openLocal(t, sharedDir(t))
	_, bin, _ := strings.Cut(db.Source, " from ")
	bin, _, _ = strings.Cut(bin, ",")
	return bin
}

func TestContainer(t *testing.T) {
	host := testenv.Docker(t)
	c, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	importImage(t, c)
	t.Cleanup(func() {
		// testcontainers makes this one where the engine has no default network.
		_, _ = c.NetworkRemove(context.Background(), "reaper_default", client.NetworkRemoveOptions{})
		_, err := c.ImageRemove(context.Background(), localImage, client.ImageRemoveOptions{Force: true})
		if err != nil {
			t.Error(err)
		}
	})
	env := []string{"DOCKER_HOST=" + host, "TESTCONTAINERS_RYUK_DISABLED=true", "STEPWARD_POSTGRES_IMAGE=" + localImage}
	first := hold(t, devdb.WayDocker, "", env...)
	second := hold(t, devdb.WayDocker, "", env...)
	if first.url != second.url {
		t.Fatalf("two containers: %s, %s", first.url, second.url)
	}
	if !strings.Contains(first.source, localImage) {
		t.Errorf("source %q does not name the image", first.source)
	}
	first.cmd.Process.Kill()
	first.cmd.Wait()
	got, err := query(t, second.url, `SELECT concat_ws(' ', current_setting('server_encoding'), datcollate, current_setting('fsync'))
		FROM pg_database WHERE datname = current_database()`)
	if want := "UTF8 C off"; got != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if _, err := query(t, strings.Replace(second.url, ":", ":x", 2), "SELECT 'in'"); err == nil {
		t.Error("connected with a wrong password")
	}
	second.cmd.Process.Kill()
	second.cmd.Wait()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := c.ContainerList(ctx, client.ContainerListOptions{
			All: true, Filters: make(client.Filters).Add("name", "stepward-devdb-"),
		})
		if err != nil {
			t.Fatalf("the container is still there: %v", err)
		}
		if len(left.Items) == 0 {
			return
		}
		<-tick.C
	}
}
