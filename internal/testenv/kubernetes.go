package testenv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A Cluster is a Kubernetes cluster, and what tests need to use it.
type Cluster struct {
	Kubeconfig string // path; its user is the cluster's admin
	Host       string // address of this machine as pods see it; empty if it is not known
}

// Kubernetes returns a cluster, or skips the test. It is the one of KUBECONFIG, or
// the one that services/kube/up starts: for that this must run as root on Linux,
// with STEPWARD_TEST_KUBE=up or STEPWARD_TEST_REQUIRE naming the part, because what
// it consists of takes a quarter of an hour to build the first time. It stays
// until services/kube/down.
func Kubernetes(t testing.TB) Cluster {
	t.Helper()
	c, err := kubernetes()
	if err != nil {
		Skip(t, PartKubernetes, err.Error())
	}
	return c
}

var kubernetes = sync.OnceValues(func() (Cluster, error) {
	if path := os.Getenv("KUBECONFIG"); path != "" {
		return Cluster{Kubeconfig: path, Host: os.Getenv("STEPWARD_KUBE_HOST")}, nil
	}
	switch {
	case runtime.GOOS != "linux" || os.Getuid() != 0:
		return Cluster{}, errors.New("no KUBECONFIG is set, and only root on Linux can start a cluster")
	case os.Getenv("STEPWARD_TEST_KUBE") != "up" && !Required(PartKubernetes):
		return Cluster{}, errors.New("no KUBECONFIG is set; STEPWARD_TEST_KUBE=up starts a cluster, whose first build takes a quarter of an hour")
	}
	vars, err := variables("kube/up")
	if err != nil {
		return Cluster{}, err
	}
	return Cluster{Kubeconfig: vars["KUBECONFIG"], Host: vars["STEPWARD_KUBE_HOST"]}, nil
})

// Image makes an image of files, each as "SOURCE:/DEST", and of volumes, as ":/DIR", and brings it to the
// node. Its first file is what it runs. On a cluster that this package did not
// start a variable, STEPWARD_TEST_IMAGE_SUITE for the name suite, must name an
// image with the like, or the test is skipped.
func (c Cluster) Image(t testing.TB, name string, files ...string) string {
	t.Helper()
	variable := "STEPWARD_TEST_IMAGE_" + strings.ToUpper(name)
	if image := os.Getenv(variable); image != "" {
		return image
	}
	if c.Host == "" {
		Skip(t, PartKubernetes, "images cannot be brought to the cluster of KUBECONFIG: push one of "+files[0]+" and name it by "+variable)
	}
	tar := filepath.Join(t.TempDir(), "image.tar")
	image := "localhost/stepward-" + name + ":test"
	_, entry, _ := strings.Cut(files[0], ":")
	args := []string{"-o", tar, "-t", image, "-entrypoint", entry}
	for _, f := range files {
		if dir, ok := strings.CutPrefix(f, ":"); ok {
			args = append(args, "-volume", dir)
		}
	}
	args = append(args, slices.DeleteFunc(slices.Clone(files), func(f string) bool { return strings.HasPrefix(f, ":") })...)
	if _, err := service("kube/make-image", args...); err != nil {
		t.Fatal(err)
	}
	if _, err := service("kube/load-image", tar); err != nil {
		t.Fatal(err)
	}
	return image
}

// service runs a script of services.
func service(name string, args ...string) (string, error) {
	_, self, _, _ := runtime.Caller(0)
	cmd := exec.Command(filepath.Join(filepath.Dir(self), "services", name), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		text := bytes.TrimSpace(stderr.Bytes())
		return "", fmt.Errorf("services/%s: %w: %s", name, err, text[max(0, len(text)-2000):])
	}
	return string(out), nil
}
