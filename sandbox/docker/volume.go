package docker

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/program"
)

// A carried program is one to be brought into sandboxes, and its digest.
type carried struct {
	program.Program
	sha256 string
	size   int64
	mode   int64 // of the file
}

func (c *carried) volume() string {
	if c.mode == readable {
		return "stepward-runner-readable-" + c.sha256
	}
	return "stepward-runner-" + c.sha256
}

// Execute only: the text of the program is none of the sandbox's business. But
// gVisor cannot execute what it cannot read.
const (
	hidden   = 0o111
	readable = 0o555
)

const (
	// helperTimeout is how long a volume may take to be filled. A helper container
	// that is older belongs to a process that died.
	helperTimeout = 5 * time.Minute

	// stallTimeout is how long the copy of a living process may stand still.
	stallTimeout = 20 * time.Second
)

// carry finds the program and sees to it that its volume is filled.
func (b *Backend) carry(ctx context.Context, api *client.Client, e *engine, img image) (*carried, error) {
	done, err := b.find(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if b.program == nil {
		p, err := program.Find(ctx, program.Want{Configured: b.config.Program, Arch: e.arch})
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		} else if err != nil {
			return nil, unavailable("it has no tool runner to bring into a container", err)
		}
		c := &carried{Program: p, mode: hidden}
		if e.gvisor {
			c.mode = readable
		}
		f, err := os.Open(p.Path)
		if err != nil {
			return nil, unavailable("the tool runner cannot be read", err)
		}
		defer f.Close()
		h := sha256.New()
		if c.size, err = io.Copy(h, f); err != nil {
			return nil, unavailable("the tool runner cannot be read", err)
		}
		c.sha256 = hex.EncodeToString(h.Sum(nil))
		b.program = c
	}
	if !b.volume.Load() {
		filling, cancel := context.WithTimeout(ctx, helperTimeout)
		defer cancel()
		if err := b.fill(filling, api, b.program, img); err != nil {
			return nil, fmt.Errorf("sandbox: bring the tool runner to the Docker engine: %w", err)
		}
		b.volume.Store(true)
	}
	return b.program, nil
}

// refill forgets that the volume is filled: someone may have pruned it.
func (b *Backend) refill() { b.volume.Store(false) }

// fill makes the volume and copies the program into it, by way of a container
// that never runs. The container's name keeps others from doing so at the same
// time.
func (b *Backend) fill(ctx context.Context, api *client.Client, c *carried, img image) error {
	if _, err := api.VolumeCreate(ctx, client.VolumeCreateOptions{Name: c.volume(), Labels: map[string]string{labelHelper: c.sha256}}); err != nil {
		return err
	}
	helper, err := lockHelper(ctx, api, c, img, stallTimeout)
	if err != nil || helper == "" {
		return err
	}
	defer func() {
		undoing, cancel := b.undoing(ctx)
		defer cancel()
		_, _ = api.ContainerRemove(undoing, helper, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	}()

	st, err := api.ContainerStatPath(ctx, helper, client.ContainerStatPathOptions{Path: ProgramPath})
	if err == nil && st.Stat.Size == c.size {
		return nil
	} else if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	f, err := os.Open(c.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, w := io.Pipe()
	go func() { // ends when the reader does
		t := tar.NewWriter(w)
		err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Base(ProgramPath), Mode: c.mode, Size: c.size})
		h := sha256.New()
		if err == nil {
			_, err = io.Copy(io.MultiWriter(t, h), f)
		}
		if err == nil && hex.EncodeToString(h.Sum(nil)) != c.sha256 {
			err = errors.New("the program changed while it was copied")
		}
		if err == nil {
			err = t.Close()
		}
		w.CloseWithError(err)
	}()
	_, err = api.CopyToContainer(ctx, helper, client.CopyToContainerOptions{DestinationPath: programDir, Content: r, CopyUIDGID: true})
	r.CloseWithError(errors.New("the engine stopped reading"))
	return err
}

// lockHelper creates the helper container. While another one of that name exists it
// waits for the program to be complete, which is seen through the other container: its
// maker may have died. The id is empty then. A copy that does not get on for stall is
// nobody's any more, and removed.
func lockHelper(ctx context.Context, api *client.Client, c *carried, img image, stall time.Duration) (id string, err error) {
	o := client.ContainerCreateOptions{
		Name:   strings.Replace(c.volume()[:40], "-runner-", "-fill-", 1),
		Config: &container.Config{Image: img.id, Entrypoint: []string{ProgramPath}, Labels: map[string]string{labelHelper: c.sha256}, NetworkDisabled: true},
		HostConfig: &container.HostConfig{
			NetworkMode: "none",
			LogConfig:   container.LogConfig{Type: "none"},
			Mounts:      []mount.Mount{{Type: mount.TypeVolume, Source: c.volume(), Target: programDir, VolumeOptions: &mount.VolumeOptions{NoCopy: true}}},
		},
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var maker string
	var have int64
	var since time.Time
	for {
		res, err := api.ContainerCreate(ctx, o)
		if err == nil {
			return res.ID, nil
		}
		if !taken(err) {
			return "", err
		}
		if other, err := api.ContainerInspect(ctx, o.Name, client.ContainerInspectOptions{}); err == nil {
			id, n := other.Container.ID, int64(-1)
			if st, err := api.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: ProgramPath}); err == nil {
				n = st.Stat.Size
			}
			switch {
			case id != maker || n != have:
				maker, have, since = id, n, time.Now()
			case n == c.size: // a tick ago, too: it is closed, and can be executed
				return "", nil
			case time.Since(since) > stall:
				_, _ = api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true})
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}
