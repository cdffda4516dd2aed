//go:build !linux

package testenv

import "errors"

func startDocker() (string, error) {
	return "", errors.New("start Docker, or set DOCKER_HOST")
}

func startPodman() (string, error) {
	return "", errors.New("Podman is only started on Linux")
}
