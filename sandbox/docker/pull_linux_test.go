package docker

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/launch"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// A shelf is a registry on a loopback address, where engines take one without TLS.
type shelf struct {
	host string

	mu        sync.Mutex
	blobs     map[string][]byte
	manifests map[string][]byte // by repository, colon, and tag or digest
	asked     map[string]int    // for a manifest, with its content
	private   bool              // admits but user "puller" with "hidden-password"

	blocking atomic.Pointer[gate]
}

// A gate holds up whoever wants a layer: byte for byte, as an engine that nobody asks any
// longer may notice that only with the next one (Docker 20.10).
type gate struct {
	came, open, left  chan struct{}
	come, pass, leave func()
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{blobs: map[string][]byte{}, manifests: map[string][]byte{}, asked: map[string]int{}}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.host = strings.TrimPrefix(srv.URL, "http://")
	return s
}

const layerType = "application/vnd.docker.image.rootfs.diff.tar.gzip"

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// put puts an image on the shelf that has etc/which, and returns the digest of its manifest.
func (s *shelf) put(t *testing.T, name, arch, which string) string {
	t.Helper()
	noise := make([]byte, 2<<20) // for something to say of progress
	rand.Read(noise)
	layer, config, err := made(arch, tarFile{"etc/which", 0o644, []byte(which)}, tarFile{"noise", 0o644, noise})
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(layer); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	about := func(kind string, b []byte) object {
		s.blobs[digestOf(b)] = b
		return object{"mediaType": kind, "size": len(b), "digest": digestOf(b)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	manifest, err := json.Marshal(object{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": about("application/vnd.docker.container.image.v1+json", config),
		"layers": []object{about(layerType, packed.Bytes())},
	})
	if err != nil {
		t.Fatal(err)
	}
	repository, _, _ := strings.Cut(name, ":")
	s.manifests[name], s.manifests[repository+":"+digestOf(manifest)] = manifest, manifest
	return digestOf(manifest)
}

const manifestType = "application/vnd.docker.distribution.manifest.v2+json"

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	user, password, _ := r.BasicAuth()
	if s.private && (user != "puller" || password != "hidden-password") {
		s.mu.Unlock()
		w.Header().Set("WWW-Authenticate", `Basic realm="shelf"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
	if len(parts) != 3 { // the question whether this is a registry
		s.mu.Unlock()
		return
	}
	data, layer := s.blobs[parts[2]], false
	if parts[1] == "manifests" {
		key := parts[0] + ":" + parts[2]
		if data = s.manifests[key]; r.Method == http.MethodGet {
			s.asked[key]++
		}
		w.Header().Set("Content-Type", manifestType)
	} else {
		layer = bytes.HasPrefix(data, []byte{0x1f, 0x8b})
	}
	s.mu.Unlock()
	if data == nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
		return
	}
	w.Header().Set("Docker-Content-Digest", digestOf(data))
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	if r.Method == http.MethodHead {
		return
	}
	if g := s.blocking.Load(); g != nil && layer {
		half := len(data) / 2
		_, _ = w.Write(data[:half])
		data = data[half:]
		slowly := time.NewTicker(10 * time.Millisecond)
		defer slowly.Stop()
		for held := true; held && len(data) > 0; {
			w.(http.Flusher).Flush()
			g.come()
			select {
			case <-g.open:
				held = false
			case <-r.Context().Done():
				g.leave()
				return
			case <-slowly.C:
				_, _ = w.Write(data[:1])
				data = data[1:]
			}
		}
	}
	_, _ = w.Write(data)
}

// block has the next pull wait in the middle of its layer.
func (s *shelf) block(t *testing.T) *gate {
	g := &gate{came: make(chan struct{}), open: make(chan struct{}), left: make(chan struct{})}
	g.come, g.leave = sync.OnceFunc(func() { close(g.came) }), sync.OnceFunc(func() { close(g.left) })
	g.pass = sync.OnceFunc(func() { close(g.open) })
	t.Cleanup(g.pass)
	s.blocking.Store(g)
	return g
}

func puller(t *testing.T, c Config) *Backend {
	t.Helper()
	c.Host, c.Program = testenv.Docker(t), sandboxtest.BuildProbe(t)
	b := New(c)
	if _, err := b.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// pulled starts a sandbox of an image, which is removed from the engine at the end.
func (b *Backend) pulled(t *testing.T, ctx context.Context, image string) (*sandbox.Sandbox, error) {
	s, err := sandbox.Start(ctx, b, sandbox.Options{Spec: sandbox.Spec{Image: image}})
	if err == nil {
		t.Cleanup(func() {
			_ = s.Destroy(context.Background())
			_, _ = b.api.ImageRemove(context.Background(), image, client.ImageRemoveOptions{Force: true})
		})
	}
	return s, err
}

func which(t *testing.T, s *sandbox.Sandbox, want string) {
	t.Helper()
	if got, err := fs.ReadFile(s.FS(), "etc/which"); err != nil || string(got) != want {
		t.Errorf("the image is %q, %v, want %s", got, err, want)
	}
}

// However many sandboxes ask for an image that the engine lacks, it is pulled once, and says how far it is. What its
// tag is in the registry later is nothing to those who name it by that.
func TestPull(t *testing.T) {
	reg := newShelf(t)
	var mu sync.Mutex
	come, of := map[string]int64{}, map[string]int64{} // by image
	b := puller(t, Config{Pulling: func(image string, done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		if done < come[image] || done > total {
			t.Errorf("%s: %d of %d bytes have come after %d", image, done, total, come[image])
		}
		come[image], of[image] = done, total
	}})
	digest := reg.put(t, "app:1", b.engine.arch, "first")
	image := reg.host + "/app:1"

	g := reg.block(t)
	type result struct {
		s   *sandbox.Sandbox
		err error
	}
	const n = 4
	results := make(chan result, n)
	for range n {
		go func() {
			s, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: sandbox.Spec{Image: image}})
			results <- result{s, err}
		}()
	}
	impatient, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := b.Create(impatient, sandbox.Creation{ID: "impatient", Spec: sandbox.Spec{Image: image}})
		gone <- err
	}()
	testenv.Receive(t, g.came)
	b.waiting(t, image, n+1)
	leave()
	if err := testenv.Receive(t, gone); !errors.Is(err, context.Canceled) {
		t.Errorf("who has left hears %v", err)
	}
	reg.blocking.Store(nil)
	g.pass()
	for range n {
		r := testenv.Receive(t, results)
		if r.err != nil {
			t.Fatal(r.err)
		}
		which(t, r.s, "first")
		if got := r.s.Enforcement().Image; got != reg.host+"/app@"+digest {
			t.Errorf("on record is %s", got)
		}
		if err := r.s.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if reg.asked["app:1"]+reg.asked["app:"+digest] != 1 {
		t.Errorf("the registry was asked for %v", reg.asked)
	}
	if mu.Lock(); of[image] < 2<<20 || come[image] == 0 {
		t.Errorf("it said %d of %d bytes", come[image], of[image])
	}
	mu.Unlock()

	second := reg.put(t, "app:1", b.engine.arch, "second")
	s, err := b.pulled(t, t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	which(t, s, "first")
	for _, name := range []string{"/app@", "/app:1@"} {
		if s, err = b.pulled(t, t.Context(), reg.host+name+second); err != nil {
			t.Fatal(err)
		}
		which(t, s, "second")
	}
}

// waiting returns when so many wait for an image.
func (b *Backend) waiting(t *testing.T, image string, n int) {
	t.Helper()
	testenv.Eventually(t, "all wait for the image", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		p := b.pulls[image]
		return p != nil && p.waiting == n
	})
}

// A pull that nobody waits for ends, and the next one begins anew.
func TestPullCanceled(t *testing.T) {
	reg := newShelf(t)
	b := puller(t, Config{})
	reg.put(t, "app:2", b.engine.arch, "late")
	g := reg.block(t)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := b.pulled(t, ctx, reg.host+"/app:2")
		failed <- err
	}()
	testenv.Receive(t, g.came)
	cancel()
	testenv.Receive(t, g.left)
	if err := testenv.Receive(t, failed); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want what has ended it", err)
	}
	reg.blocking.Store(nil)
	s, err := b.pulled(t, t.Context(), reg.host+"/app:2")
	if err != nil {
		t.Fatal(err)
	}
	which(t, s, "late")
}

// What cannot be had says why.
func TestPullRefused(t *testing.T) {
	reg := newShelf(t)
	var asked string
	b := puller(t, Config{Credentials: func(_ context.Context, registry string) (string, string, error) {
		asked = registry
		return "puller", "hidden-password", nil
	}})
	stranger, never := puller(t, Config{}), puller(t, Config{NoPull: true})
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[b.engine.arch]
	reg.put(t, "own:1", b.engine.arch, "own")
	reg.put(t, "other:1", other, "other")
	reg.private = true
	broker := launch.With(t.Context(), envelope.Witness{Backend: Name})
	for _, c := range []struct {
		b             *Backend
		image, reason string
	}{
		{stranger, reg.host + "/own:1", "denied"},
		{never, reg.host + "/own:1", "not found"},
		{b, reg.host + "/none:1", "not found"},
		{b, reg.host + "/own@" + digestOf(nil), "not found"},
		{b, digestOf(nil), "not found"},
		{b, reg.host + "/other:1", "wrong platform"},
	} {
		_, err := c.b.pulled(t, t.Context(), c.image)
		if ie, ok := errors.AsType[*sandbox.ImageError](err); !ok || ie.Image != c.image || !strings.HasPrefix(ie.Reason, c.reason) {
			t.Errorf("%s: %v, want an ImageError that says %q", c.image, err, c.reason)
		} else if strings.Contains(err.Error(), "hidden-password") {
			t.Errorf("%s: %v has the password", c.image, err)
		}
	}
	_, _ = b.api.ImageRemove(t.Context(), reg.host+"/other:1", client.ImageRemoveOptions{Force: true})
	if s, err := b.pulled(t, t.Context(), reg.host+"/own:1"); err != nil { // the control
		t.Error(err)
	} else if which(t, s, "own"); asked != reg.host {
		t.Errorf("credentials were asked for %q", asked)
	}
	// A broker's worker has nothing pulled by a name that could be anybody's.
	_, err := b.Create(broker, sandbox.Creation{ID: "short", Spec: sandbox.Spec{Image: "stepward-none/short:1"}})
	if ie, ok := errors.AsType[*sandbox.ImageError](err); !ok || !strings.Contains(ie.Reason, "no registry") {
		t.Errorf("a short name: %v", err)
	}
	// A registry that does not answer may by the next time.
	if _, err := b.pulled(t, t.Context(), "127.0.0.1:1/app:1"); err == nil {
		t.Error("an image came from nowhere")
	} else if _, ok := errors.AsType[*sandbox.ImageError](err); ok {
		t.Errorf("a registry that does not answer: %v", err)
	}
}

// What engines say when there is no space, or no platform, in words only.
func TestPullErrors(t *testing.T) {
	for says, want := range map[string]string{
		"failed to register layer: Error processing tar file(exit status 1): write /x: no space left on device":                                            "no space",
		"no matching manifest for linux/arm64/v8 in the manifest list entries":                                                                             "wrong platform",
		"pull access denied for stepward/x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied":   "denied",
		"manifest for alpine:none not found: manifest unknown: manifest unknown":                                                                           "not found",
		"Error response from daemon: Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io on 127.0.0.53:53: server misbehaving": "",
		"toomanyrequests: You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit":                               "",
	} {
		ie, ok := errors.AsType[*sandbox.ImageError](pullError("x", errors.New(says)))
		if ok != (want != "") || ok && !strings.HasPrefix(ie.Reason, want) {
			t.Errorf("%s: %v, want %q", says, ie, want)
		}
	}
}
