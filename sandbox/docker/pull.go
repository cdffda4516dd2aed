package docker

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/launch"
	"github.com/stepward/stepward/sandbox"
)

// A pull brings one image to the engine, for all who wait for it.
type pull struct {
	done    chan struct{}
	err     error // set before done is closed
	waiting int
	cancel  context.CancelFunc // once nobody waits
}

// idForm is what names an image that an engine has, and no registry's.
var idForm = regexp.MustCompile(`^(sha256:[0-9a-f]+|[0-9a-f]{64})$`)

// mayPull returns why an image that the engine does not have is not pulled: empty if it is.
func (b *Backend) mayPull(ctx context.Context, ref string, own bool) string {
	switch {
	case b.config.NoPull:
		return "not found on the engine, and not pulled: docker.Config.NoPull is set; run docker pull or docker load there"
	case idForm.MatchString(ref):
		return "not found on the engine: an ID is no name in a registry"
	case !own && launch.Witness(ctx).Backend != "" && !qualified(ref):
		return "not found on the engine, and not pulled for a broker's worker: its name has no registry, as docker.io/ in front"
	}
	return ""
}

// qualified reports whether a name has its registry. One without may be meant of an image that never was in one.
func qualified(ref string) bool {
	host, _, path := strings.Cut(ref, "/")
	return path && (strings.ContainsAny(host, ".:") || host == "localhost")
}

// pull has the engine pull an image. However many ask for it at a time, it is pulled once.
func (b *Backend) pull(ctx context.Context, api *client.Client, ref string) error {
	b.mu.Lock()
	p := b.pulls[ref]
	if p == nil {
		pulling, cancel := context.WithCancel(context.WithoutCancel(ctx))
		p = &pull{done: make(chan struct{}), cancel: cancel}
		if b.pulls == nil {
			b.pulls = map[string]*pull{}
		}
		b.pulls[ref] = p
		go func() {
			p.err = b.fetch(pulling, api, ref)
			cancel()
			b.mu.Lock()
			if b.pulls[ref] == p {
				delete(b.pulls, ref)
			}
			b.mu.Unlock()
			close(p.done)
		}()
	}
	p.waiting++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if p.waiting--; p.waiting == 0 {
			p.cancel()
			if b.pulls[ref] == p { // whoever comes now begins anew
				delete(b.pulls, ref)
			}
		}
	}()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (b *Backend) fetch(ctx context.Context, api *client.Client, ref string) error {
	name, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return &sandbox.ImageError{Backend: Name, Image: ref, Reason: "is no image reference", Err: err}
	}
	var o client.ImagePullOptions
	if b.config.Credentials != nil {
		user, password, err := b.config.Credentials(ctx, reference.Domain(name))
		if err == nil && user != "" {
			o.RegistryAuth, err = authconfig.Encode(registry.AuthConfig{Username: user, Password: password, ServerAddress: reference.Domain(name)})
		}
		if err != nil {
			return fmt.Errorf("sandbox: pull image %s: credentials for %s: %w", ref, reference.Domain(name), err)
		}
	}
	said, err := api.ImagePull(ctx, ref, o)
	if err != nil {
		return pullError(ref, err)
	}
	type part struct{ done, total int64 }
	layers := map[string]part{} // that are on their way, or have come
	for m, err := range said.JSONMessages(ctx) {
		if err == nil && m.Error != nil {
			err = m.Error
		}
		if err != nil {
			return pullError(ref, err)
		}
		if m.Status != "Downloading" || m.Progress == nil || b.config.Pulling == nil {
			continue
		}
		layers[m.ID] = part{m.Progress.Current, m.Progress.Total}
		var sum part
		for _, l := range layers {
			sum.done += l.done
			sum.total += max(l.done, l.total)
		}
		b.config.Pulling(ref, sum.done, sum.total)
	}
	return nil
}

// pullError tells what somebody has to see to from what may be over by the next time. Engines send most of it as text.
func pullError(ref string, err error) error {
	says := strings.ToLower(err.Error())
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(s string) bool { return strings.Contains(says, s) })
	}
	var reason string
	switch {
	case has("no space left", "disk quota exceeded"):
		reason = "no space on the engine's disk to pull it to"
	case has("no matching manifest", "no match for platform", "does not match the specified platform", "cannot be used on this platform"):
		reason = "wrong platform: the registry has it for others than the engine's"
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err), has("denied", "unauthorized", "authentication required", "no basic auth credentials"):
		reason = "denied by its registry, or not there: see docker.Config.Credentials"
	case errdefs.IsNotFound(err), has("manifest unknown", "name unknown", "not found: "):
		reason = "not found on the engine, nor in its registry"
	default:
		return fmt.Errorf("sandbox: pull image %s: %w", ref, err)
	}
	return &sandbox.ImageError{Backend: Name, Image: ref, Reason: reason, Err: err}
}
