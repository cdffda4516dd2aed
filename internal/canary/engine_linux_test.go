package canary_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/canary"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// enginePlaces are those where a Docker engine has something of a container.
var enginePlaces = []string{"docker inspect", "docker export", "docker logs", "docker volume", "docker image", "docker events", "files of the engine"}

// TestCanaryDocker has commands in a container hold the secrets of a tenant, and say them. What the engine tells and keeps of
// the container, its volumes and its image has none of them, while it is there and when it is gone; and one that is injected is not
// even in the memory of what runs in it, where another is. Beside it is a container as somebody
// who thinks of nothing would make it, with a marker in its environment, output, labels and files, which is found in each place.
func TestCanaryDocker(t *testing.T) {
	host := testenv.Docker(t)
	api, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	m := newMine(t)
	m.setup.Engine, m.setup.Probe = host, sandboxtest.BuildProbe(t)
	m.tellSetup()
	since := strconv.FormatInt(time.Now().Unix(), 10)
	worker := m.work("first")
	run := m.waiting("engine", "acme")[0]
	e := engine{m, api}
	list, err := api.ContainerList(t.Context(), client.ContainerListOptions{Filters: client.Filters{}.Add("label", fmt.Sprintf("stepward.run=%d", int64(run.ID)))})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%d containers, %v", len(list.Items), err)
	}
	ours := list.Items[0].ID
	about := e.container(ours)
	e.files(ours)
	e.inside(ours)
	m.memory("memory of a worker", worker.Process.Pid)
	m.processes()
	if err := m.client.Cancel(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if out, err := run.Result(t.Context()); err == nil {
		t.Errorf("got %q", out)
	}
	careless := e.careless(about)
	e.container(careless)
	e.files(ours, careless)
	e.events(since)
	for _, place := range append(enginePlaces, "memory of a worker", "processes", "inside") {
		marker := "marker engine"
		switch place {
		case "memory of a worker":
			marker = "marker memory"
		case "processes":
			marker = "marker environ"
		case "inside":
			marker = "marker S0"
		}
		if !m.found[place][marker] {
			t.Errorf("the search of %s cannot see: it found %v", place, slices.Sorted(maps.Keys(m.found[place])))
		}
	}
}

// An engine is where the sandboxes of a mine are.
type engine struct {
	*mine
	api *client.Client
}

func (e engine) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// show looks at what the engine tells.
func (e engine) show(place, id string, about any, err error) {
	e.t.Helper()
	e.must(err)
	text, err := json.Marshal(about)
	e.must(err)
	e.look(place, id, bytes.NewReader(text))
}

// container looks at all that the engine tells of a container, and of what it is made of.
func (e engine) container(id string) container.InspectResponse {
	e.t.Helper()
	ctx := e.t.Context()
	is, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{Size: true})
	e.show("docker inspect", id, is, err)
	if is.Container.State.Running {
		top, err := e.api.ContainerTop(ctx, id, client.ContainerTopOptions{Arguments: []string{"-eo", "pid,args"}})
		e.show("docker inspect", id, top, err)
	}
	files, err := e.api.ContainerExport(ctx, id, client.ContainerExportOptions{})
	e.must(err)
	e.look("docker export", id, files)
	e.must(files.Close())
	logs, err := e.api.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
	if err == nil { // else it has none
		e.look("docker logs", id, logs)
		e.must(logs.Close())
	}
	for _, v := range is.Container.Mounts {
		if v.Type == mount.TypeVolume {
			about, err := e.api.VolumeInspect(ctx, v.Name, client.VolumeInspectOptions{})
			e.show("docker volume", v.Name, about, err)
		}
	}
	image, err := e.api.ImageInspect(ctx, is.Container.Image)
	e.show("docker image", id, image, err)
	history, err := e.api.ImageHistory(ctx, is.Container.Image)
	e.show("docker image", id, history, err)
	return is.Container
}

// inside looks at the memory and environment of all processes of a container for a key that is injected, and as a control
// for one that is not.
func (e engine) inside(id string) {
	e.t.Helper()
	top, err := e.api.ContainerTop(e.t.Context(), id, client.ContainerTopOptions{Arguments: []string{"-eo", "pid"}})
	e.must(err)
	within := *e.mine
	within.search = canary.NewSearcher(map[string][]string{"marker S0": e.values["acme S0"], "acme " + injected: e.values["acme "+injected]})
	for _, process := range top.Processes {
		pid, err := strconv.Atoi(process[0])
		e.must(err)
		within.memory("inside", pid)
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		e.must(err)
		within.look("inside", "environ", bytes.NewReader(environ))
	}
	if len(top.Processes) < 2 {
		e.t.Errorf("%d processes were looked at", len(top.Processes))
	}
}

// files looks at those of the engine: of one that is the test's own at all that it has, and else at what has a container's id
// in its path.
func (e engine) files(ids ...string) {
	e.t.Helper()
	info, err := e.api.Info(e.t.Context(), client.InfoOptions{})
	e.must(err)
	root := info.Info.DockerRootDir
	if _, err := os.Stat(root); err != nil {
		testenv.Skip(e.t, testenv.PartDocker, "the engine's files are not here: "+err.Error())
	}
	own := strings.HasPrefix(root, filepath.Join(os.TempDir(), "stepward-docker-"))
	e.mine.files("files of the engine", root, func(path string) bool {
		return own || slices.ContainsFunc(ids, func(id string) bool { return strings.Contains(path, id) })
	})
}

// events looks at what the engine has told since then.
func (e engine) events(since string) {
	e.t.Helper()
	ctx, cancel := context.WithCancel(e.t.Context())
	defer cancel()
	told := e.api.Events(ctx, client.EventsListOptions{Since: since, Until: strconv.FormatInt(time.Now().Unix()+1, 10)})
	for {
		select {
		case event := <-told.Messages:
			e.show("docker events", event.Actor.ID, event, nil)
		case err := <-told.Err:
			if !errors.Is(err, io.EOF) {
				e.t.Error(err)
			}
			return
		}
	}
}

// careless makes a container like another one, which is over at once, with the marker in all that can have it.
func (e engine) careless(like container.InspectResponse) (id string) {
	e.t.Helper()
	ctx, marker, name := e.t.Context(), e.setup.Markers["engine"], fmt.Sprintf("canary-%d", os.Getpid())
	labels, env := map[string]string{"marker": marker}, []string{"MARKER=" + marker}
	cleanup := func(f func(context.Context) error) {
		e.t.Cleanup(func() {
			if err := f(context.Background()); err != nil {
				e.t.Error(err)
			}
		})
	}
	_, err := e.api.VolumeCreate(ctx, client.VolumeCreateOptions{Name: name, Labels: labels})
	e.must(err)
	cleanup(func(ctx context.Context) error {
		_, err := e.api.VolumeRemove(ctx, name, client.VolumeRemoveOptions{Force: true})
		return err
	})
	base, err := e.api.ContainerCreate(ctx, client.ContainerCreateOptions{Config: &container.Config{Image: like.Image, Cmd: []string{"none"}, Env: env}})
	e.must(err)
	made, err := e.api.ContainerCommit(ctx, base.ID, client.ContainerCommitOptions{Reference: name})
	e.must(err)
	_, err = e.api.ContainerRemove(ctx, base.ID, client.ContainerRemoveOptions{Force: true})
	e.must(err)
	cleanup(func(ctx context.Context) error {
		_, err := e.api.ImageRemove(ctx, made.ID, client.ImageRemoveOptions{Force: true})
		return err
	})
	mounts := []mount.Mount{{Type: mount.TypeVolume, Source: name, Target: "/volume"}}
	for _, v := range like.Mounts {
		if v.Type == mount.TypeVolume {
			mounts = append(mounts, mount.Mount{Type: mount.TypeVolume, Source: v.Name, Target: v.Destination, ReadOnly: true})
		}
	}
	c, err := e.api.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config:     &container.Config{Image: made.ID, Entrypoint: []string{docker.ProgramPath}, Cmd: []string{"probe:env"}, Env: env, Labels: labels},
		HostConfig: &container.HostConfig{NetworkMode: "none", Mounts: mounts, LogConfig: container.LogConfig{Type: "json-file"}},
	})
	e.must(err)
	cleanup(func(ctx context.Context) error {
		_, err := e.api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true})
		return err
	})
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	e.must(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "marker", Mode: 0o644, Size: int64(len(marker))}))
	_, err = w.Write([]byte(marker))
	e.must(errors.Join(err, w.Close()))
	_, err = e.api.CopyToContainer(ctx, c.ID, client.CopyToContainerOptions{DestinationPath: "/etc", Content: &files})
	e.must(err)
	over := e.api.ContainerWait(ctx, c.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	_, err = e.api.ContainerStart(ctx, c.ID, client.ContainerStartOptions{})
	e.must(err)
	select {
	case <-over.Result:
	case err := <-over.Error:
		e.t.Fatal(err)
	}
	return c.ID
}
