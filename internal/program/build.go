package program

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// build makes a static twin of the running program, at path self, from source.
// The twin is cached under the running program's build ID, which changes with
// any of its sources.
func build(ctx context.Context, self, arch string) (Program, error) {
	exe, err := os.Executable()
	if err != nil {
		exe = self
	}
	name := exe
	fail := func(reason string, err error) (Program, error) {
		if ctx.Err() != nil {
			return Program{}, context.Cause(ctx)
		}
		return Program{}, &Error{Program: name, Reason: reason + "; " + howTo, Err: err}
	}

	id, err := identify(self)
	if err != nil {
		return fail("is dynamically linked or not for linux/"+arch+", and has no build information", err)
	}
	name = id.Path
	switch {
	case strings.HasSuffix(id.Path, ".test"):
		return fail("is a test program that is dynamically linked or not for linux/"+arch+", and a test cannot be rebuilt from its build information", nil)
	case id.Path == "command-line-arguments":
		return fail("was built from single files, which cannot be found again: name its package, as in go run .", nil)
	}

	dir, err := cacheDir()
	if err != nil {
		return fail("no cache directory to build in", err)
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n", cmp.Or(id.buildID, digest(self)), id.Path, arch))
	target := filepath.Join(dir, fmt.Sprintf("%x", key[:16]))
	if p, err := inspect(target); err == nil {
		p.Origin = "built"
		return p, nil
	}

	tool, err := exec.LookPath("go")
	if err != nil {
		return fail("is dynamically linked or not for linux/"+arch+", and there is no Go toolchain to build a static one", err)
	}
	src, err := findSource(ctx, tool, id)
	if err != nil {
		return fail("is dynamically linked or not for linux/"+arch+", and its sources are not at hand", err)
	}
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return fail("cannot build", err)
	}
	defer os.RemoveAll(tmp)
	log, start := logger(ctx).With("program", id.Path, "arch", arch), time.Now()
	log.InfoContext(ctx, "building a static program for sandboxes from source: the first time, this may take minutes")
	if err := unchanged(ctx, tool, id, src, tmp); err != nil {
		return fail("its sources are not those it was built from: build and start it again", err)
	}
	out := filepath.Join(tmp, "program")
	args := []string{"build", "-buildvcs=false", "-ldflags=-s -w", "-o", out}
	if v := id.setting("-tags"); v != "" {
		args = append(args, "-tags="+v)
	}
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch, "GOTMPDIR=" + tmp}
	if _, err := run(ctx, src, tool, env, append(args, id.Path)...); err != nil {
		return fail("cannot be built without cgo", err)
	}
	p, err := inspect(out)
	if err != nil {
		return Program{}, err
	}
	if p.Loader != "" {
		return fail("is dynamically linked even when built with CGO_ENABLED=0", nil)
	}
	// The name appears whole or not at all, whoever else builds.
	if err := os.Rename(out, target); err != nil {
		return fail("cannot keep what was built", err)
	}
	prune(dir, target)
	log.InfoContext(ctx, "built the program for sandboxes", "path", target, "took", time.Since(start).Round(time.Millisecond))
	return Program{Path: target, Origin: "built", Arch: p.Arch}, nil
}

// findSource returns a directory in which the go command knows the program's
// main package.
func findSource(ctx context.Context, tool string, id identity) (string, error) {
	var tried []error
	dirs := []string{id.mainDir}
	if wd, err := os.Getwd(); err == nil {
		dirs = append(dirs, wd)
	}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		if _, err := os.Stat(dir); err != nil {
			tried = append(tried, err)
			continue
		}
		out, err := run(ctx, dir, tool, nil, "list", "-f", "{{.Name}} {{with .Module}}{{.Path}}{{end}}", id.Path)
		if err != nil {
			tried = append(tried, err)
			continue
		}
		if got := strings.TrimSpace(out); got != "main "+id.Main.Path {
			tried = append(tried, fmt.Errorf("%s: %s is %q there, not of module %s", dir, id.Path, got, id.Main.Path))
			continue
		}
		return dir, nil
	}
	if len(tried) == 0 {
		return "", errors.New("built with -trimpath and started outside its module")
	}
	return "", errors.Join(tried...)
}

// unchanged reports an error when the sources in dir would make another program
// than the running one: a worker must not send its sandboxes code that it does
// not have itself. What has to be compiled for that is compiled below tmp.
func unchanged(ctx context.Context, tool string, id identity, dir, tmp string) error {
	want := mainPackageID(id.buildID)
	if want == "" {
		return errors.New("it has no build ID")
	}
	flags := []string{"-buildvcs=false"}
	for _, s := range id.Settings {
		switch s.Key {
		case "-race", "-msan", "-asan", "-trimpath", "-tags", "-gcflags", "-asmflags", "-ldflags", "-cover", "-covermode":
			flags = append(flags, s.Key+"="+s.Value)
		}
	}
	env := []string{"GOTMPDIR=" + tmp}
	for _, key := range []string{"CGO_ENABLED", "GOOS", "GOARCH", "GOAMD64", "GOARM64", "GOEXPERIMENT"} {
		if v := id.setting(key); v != "" {
			env = append(env, key+"="+v)
		}
	}
	list := append(append([]string{"list", "-export", "-f", "{{.BuildID}}"}, flags...), id.Path)
	out, err := run(ctx, dir, tool, env, list...)
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) == want {
		return nil
	}
	// go run compiles the main package without debug data, which no other
	// command repeats. This repeats it, and asks for the build ID in place of
	// running the program; mostly the go command finds all of it in its cache.
	again := append(append([]string{"run", "-exec", "go tool buildid"}, flags...), id.Path)
	out, err = run(ctx, dir, tool, env, again...)
	if err != nil {
		return err
	}
	if mainPackageID(strings.TrimSpace(out)) != want {
		return fmt.Errorf("%s has another build ID when compiled now", id.Path)
	}
	return nil
}

// Each change of a program leaves a build behind; old ones go at the next build.
const keepBuilt = 30 * 24 * time.Hour

func prune(dir, keep string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		fi, err := e.Info()
		path := filepath.Join(dir, e.Name())
		if err == nil && path != keep && time.Since(fi.ModTime()) > keepBuilt {
			os.RemoveAll(path)
		}
	}
}

func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "stepward", "programs")
	return dir, os.MkdirAll(dir, 0o700)
}

func digest(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return path
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

func run(ctx context.Context, dir, tool string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	asGroup(cmd)
	cmd.WaitDelay = time.Second // for what is left of it
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", args[0], dir, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
