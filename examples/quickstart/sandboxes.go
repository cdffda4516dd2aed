package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/local"
)

// sandboxOptions say what sandboxes are made of.
type sandboxOptions struct {
	backend string
	image   string
}

func (o *sandboxOptions) register(flags *flag.FlagSet) {
	flags.StringVar(&o.backend, "backend", "", "what makes the sandboxes: `local|docker`; local where it works, else docker")
	flags.StringVar(&o.image, "image", "", "with docker, the `image` of the sandboxes; defaults to an empty one")
}

func (o *sandboxOptions) validate() error {
	if o.image != "" && o.backend == "" {
		o.backend = docker.Name
	}
	switch {
	case o.backend != "" && o.backend != local.Name && o.backend != docker.Name:
		return fmt.Errorf("-backend %s: want local or docker", o.backend)
	case o.image != "" && o.backend == local.Name:
		return errors.New("-image names one of a Docker engine, and needs -backend docker")
	}
	return nil
}

// make returns the backend that was asked for.
func (o sandboxOptions) make() sandbox.Backend {
	if o.backend == docker.Name {
		return docker.New(docker.Config{Image: o.image})
	}
	return local.New(local.Config{})
}

// choose tries which backend works here, and says so. A sandbox is never
// replaced by something weaker: without one, the program ends.
func (o sandboxOptions) choose(ctx context.Context, screen *screen) (sandboxOptions, error) {
	names := []string{o.backend}
	if o.backend == "" {
		names = []string{local.Name, docker.Name}
	}
	var reasons []string
	for _, name := range names {
		o.backend = name
		can, err := o.probe(ctx, screen)
		if ctx.Err() != nil {
			return o, context.Cause(ctx)
		}
		if err == nil {
			screen.printf("sandboxes   %s: %s, no network%s", name, can.Isolation, layers(can))
			if len(reasons) > 0 {
				screen.printf("            because of %s", reasons[0])
			}
			return o, nil
		}
		reasons = append(reasons, err.Error())
	}
	return o, fmt.Errorf("no sandbox can be made here:\n  %s\nways out: do what a line above says, or start a Docker engine (DOCKER_HOST says where it is)",
		strings.Join(reasons, "\n  "))
}

// patience is how long a probe may take without a word.
const patience = 3 * time.Second

// probe finds out whether the backend works. Where this program was linked
// dynamically, as go run does with gcc, the first probe of docker builds it anew.
func (o sandboxOptions) probe(ctx context.Context, screen *screen) (sandbox.Capabilities, error) {
	if o.backend == docker.Name {
		defer time.AfterFunc(patience, func() {
			screen.printf("sandboxes   trying docker: the first time, a static copy of this program is built")
		}).Stop()
	}
	return o.make().Probe(ctx)
}

func layers(can sandbox.Capabilities) string {
	var b strings.Builder
	if can.UserNS {
		b.WriteString(", a user namespace")
	}
	if can.Landlock > 0 {
		fmt.Fprintf(&b, ", Landlock %d", can.Landlock)
	}
	if can.Seccomp {
		b.WriteString(", seccomp")
	}
	return b.String()
}
