package docker

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/launch"
	"github.com/stepward/stepward/sandbox"
)

// List returns the sandboxes of an installation, whichever process made them,
// and removes what sandboxes of any have left behind that ended by themselves, or
// whose maker died before it started them: those have no tool runner that would
// end them, and their installation may be gone.
func (b *Backend) List(ctx context.Context, schema string) ([]sandbox.Listed, error) {
	api, e, err := b.connect(ctx)
	if err != nil {
		return nil, err
	}
	res, err := api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", labelID)})
	if err != nil {
		return nil, fmt.Errorf("sandbox: list containers: %w", err)
	}
	alive := map[string]bool{}
	var out []sandbox.Listed
	for _, c := range res.Items {
		id := c.Labels[labelID]
		alive[id] = true
		switch c.State {
		case container.StateExited, container.StateDead, container.StateRemoving:
			if err := b.remove(ctx, api, c.ID); err != nil {
				return nil, err
			}
			continue
		case container.StateCreated:
			if time.Since(time.Unix(c.Created, 0)) > b.unstarted {
				if err := b.destroy(ctx, api, e, id); err != nil {
					return nil, err
				}
				continue
			}
		}
		if c.Labels[labelSchema] == schema && c.Labels[labelInstallation] == launch.Installation(ctx) {
			out = append(out, sandbox.Listed{ID: id, Labels: parseLabels(c.Labels), Created: time.Unix(c.Created, 0)})
		}
	}
	sweepSockets(e, alive)
	if err := b.sweepHelpers(ctx, api); err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b sandbox.Listed) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// sweepHelpers removes containers that processes which died were filling a
// volume with.
func (b *Backend) sweepHelpers(ctx context.Context, api *client.Client) error {
	res, err := api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", labelHelper)})
	if err != nil {
		return fmt.Errorf("sandbox: list containers: %w", err)
	}
	for _, c := range res.Items {
		if time.Since(time.Unix(c.Created, 0)) > helperTimeout {
			if err := b.remove(ctx, api, c.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// Destroy ends a sandbox. When it returns, no process of it is left.
func (b *Backend) Destroy(ctx context.Context, id string) error {
	api, e, err := b.connect(ctx)
	if err != nil {
		return err
	}
	if launch.Installation(ctx) != "" {
		switch _, err := inspect(ctx, api, id); {
		case errdefs.IsNotFound(err):
			return nil
		case err != nil:
			return fmt.Errorf("sandbox: look for %s: %w", id, err)
		}
	}
	return b.destroy(ctx, api, e, id)
}

func (b *Backend) destroy(ctx context.Context, api *client.Client, e *engine, id string) error {
	if err := b.remove(ctx, api, containerName(id)); err != nil {
		return err
	}
	socketDir(filepath.Join(socketRoot(), e.key+"-"+id)).remove()
	return nil
}

// inspect looks for the container of a sandbox. That of another installation is not found.
func inspect(ctx context.Context, api *client.Client, id string) (container.InspectResponse, error) {
	res, err := api.ContainerInspect(ctx, containerName(id), client.ContainerInspectOptions{})
	if s := launch.Installation(ctx); err == nil && s != "" && (res.Container.Config == nil || res.Container.Config.Labels[labelInstallation] != s) {
		err = errdefs.ErrNotFound
	}
	return res.Container, err
}

func (b *Backend) remove(ctx context.Context, api *client.Client, name string) error {
	_, err := api.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	if errdefs.IsConflict(err) { // the engine is removing it
		gone := api.ContainerWait(ctx, name, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
		select {
		case <-gone.Result:
			return nil
		case err = <-gone.Error:
			if errdefs.IsNotFound(err) {
				return nil
			}
		}
	}
	return fmt.Errorf("sandbox: remove container %s: %w", name, err)
}
