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
