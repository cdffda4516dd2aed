package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

// Docker returns the address of a Docker engine, in the form of DOCKER_HOST, or
// skips the test. It is the engine of DOCKER_HOST, the one at the usual
// address, or one that this process starts, which needs root and dockerd. Such
// an engine has no images and no default network, and ends with the process.
func Docker(t testing.TB) string {
	t.Helper()
	host, err := docker()
	if err != nil {
		Skip(t, PartDocker, err.Error())
	}
	return host
}

var docker = sync.OnceValues(func() (string, error) {
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		if err := pingDocker(host); err != nil {
			return "", fmt.Errorf("DOCKER_HOST=%s: %w", host, err)
		}
		return host, nil
	}
	usualErr := pingDocker(client.DefaultDockerHost)
	if usualErr == nil {
		return client.DefaultDockerHost, nil
	}
	host, err := startDocker()
	if err != nil {
		return "", errors.Join(usualErr, err)
	}
	return host, nil
})

// GVisorRuntime is the name by which an engine of [GVisor] has it.
const GVisorRuntime = "runsc"

// GVisor returns the address of a Docker engine that has gVisor, or skips the test.
// It is the one of [Docker] if that has it, or else one that this process starts.
func GVisor(t testing.TB) string {
	t.Helper()
	host, err := gvisor()
	if err != nil {
		Skip(t, PartGVisor, err.Error())
	}
	return host
}

var gvisor = sync.OnceValues(func() (string, error) {
	host, err := docker()
	if err != nil {
		return "", err
	}
	err = hasGVisor(host)
	if err != nil && os.Getenv("DOCKER_HOST") == "" {
		if host, err = startDocker(); err == nil {
			err = hasGVisor(host)
		}
	}
	return host, err
})

// Podman returns the address of a Podman that this process starts, which ends with it,
// or skips the test.
func Podman(t testing.TB) string {
	t.Helper()
	host, err := podman()
	if err != nil {
		Skip(t, PartPodman, err.Error())
	}
	return host
}

var podman = sync.OnceValues(startPodman)

func hasGVisor(host string) error {
	c, err := client.New(client.WithHost(host))
	if err != nil {
		return err
	}
	defer c.Close()
	info, err := c.Info(context.Background(), client.InfoOptions{})
	if err != nil {
		return err
	}
	if _, ok := info.Info.Runtimes[GVisorRuntime]; !ok {
		return fmt.Errorf("the engine at %s has no runtime %s (apt-get install runsc)", host, GVisorRuntime)
	}
	return nil
}

func pingDocker(host string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := client.New(client.WithHost(host))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Ping(ctx, client.PingOptions{})
	return err
}
