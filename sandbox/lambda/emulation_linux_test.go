package lambda

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"golang.org/x/sys/unix"
)

// A cloud is what of AWS Lambda the backend and its function see: the API of
// invocations for the SDK, and for each execution environment a process with the
// runtime API. It refuses what AWS refuses.
type cloud struct {
	t       *testing.T
	program string
	api     *httptest.Server

	mu   sync.Mutex
	aws  behavior
	envs []*environment
	last *environment // that something was run in
	seen []string     // the codes of API errors that were returned
}

// A behavior is how AWS, and the function, are set up.
type behavior struct {
	timeout     time.Duration // of the function
	isolation   bool          // of tenants
	maxRequest  int           // bytes
	maxResponse int           // bytes, of one that is streamed
	fail        []string      // codes of errors that the next invocations end with
	careless    bool          // hands the environment of one tenant to another, which AWS does not
}

// set changes it.
func (c *cloud) set(change func(*behavior)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.aws)
}

// newCloud has one function, "fn", which is the suite's.
func newCloud(t *testing.T) *cloud {
	c := &cloud{t: t, program: buildFunction(t, "internal/probe"), aws: behavior{timeout: MaxTime, isolation: true, maxRequest: MaxRequest, maxResponse: MaxResponse}}
	c.api = httptest.NewServer(http.HandlerFunc(c.invoke))
	t.Cleanup(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, e := range c.envs {
			e.stop()
		}
		c.api.CloseClientConnections()
		c.api.Close()
	})
	return c
}

// backend is one whose client is the SDK's.
func (c *cloud) backend() *Backend {
	return New(Config{Function: "fn", Client: lambda.New(lambda.Options{
		Region: "eu-north-1", BaseEndpoint: &c.api.URL,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "id", SecretAccessKey: "key"}, nil
		}),
	})})
}

// refuse answers as the API does.
func (c *cloud) refuse(w http.ResponseWriter, status int, code, message string) {
	c.mu.Lock()
	c.seen = append(c.seen, code)
	c.mu.Unlock()
	w.Header().Set("X-Amzn-ErrorType", code)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"Type": "User", "message": message})
}

var invocations = regexp.MustCompile(`^/(?:2021-11-15/functions/([^/]+)/response-streaming-|2015-03-31/functions/([^/]+)/)invocations$`)

func (c *cloud) invoke(w http.ResponseWriter, r *http.Request) {
	name := invocations.FindStringSubmatch(r.URL.Path)
	tenant := r.Header.Get("X-Amz-Tenant-Id")
	payload, err := io.ReadAll(r.Body)
	c.mu.Lock()
	a, code := c.aws, ""
	if len(a.fail) > 0 {
		code, c.aws.fail = a.fail[0], a.fail[1:]
	}
	c.mu.Unlock()
	switch {
	case err != nil:
		return
	case code != "":
		c.refuse(w, map[string]int{"ServiceException": 500, "TooManyRequestsException": 429}[code], code, "as it happens")
	case name == nil || r.Method != http.MethodPost || !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 "):
		c.refuse(w, 403, "AccessDeniedException", "not an invocation that is signed")
	case name[1]+name[2] != "fn":
		c.refuse(w, 404, "ResourceNotFoundException", "Function not found: "+name[1]+name[2])
	case len(payload) > a.maxRequest:
		c.refuse(w, 413, "RequestTooLargeException", fmt.Sprintf("Request must be smaller than %d bytes for the InvokeFunction operation", a.maxRequest))
	case !json.Valid(payload):
		c.refuse(w, 400, "InvalidRequestContentException", "Could not parse request body into json")
	case a.isolation && tenant == "":
		c.refuse(w, 400, "InvalidParameterValueException", "The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your request and try again.")
	case !a.isolation && tenant != "":
		c.refuse(w, 400, "InvalidParameterValueException", "The invoked function is not enabled with tenancy configuration. Remove the tenant ID from your request and try again.")
	case a.timeout > MaxTime:
		c.t.Errorf("a function with a timeout of %v could not be made", a.timeout)
	case name[2] != "":
		a.maxResponse = MaxBuffered
		c.run(&buffered{w: w}, a, tenant, payload)
	default:
		w.Header().Set("Content-Type", "application/vnd.amazon.eventstream")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		c.run(streamed{w}, a, tenant, payload)
	}
}

// A response is what the API makes of one of the function.
type response interface {
	chunk([]byte)
	end(failure)
}

// run hands an invocation to an environment and passes its response on.
func (c *cloud) run(to response, a behavior, tenant string, payload []byte) {
	inv := &invocation{
		id: rand.Text(), tenant: tenant, payload: payload, deadline: time.Now().Add(a.timeout),
		chunks: make(chan []byte), ended: make(chan failure, 1),
	}
	e := c.environment(inv)
	late := time.NewTimer(time.Until(inv.deadline))
	defer late.Stop()
	size := 0
	for {
		select {
		case chunk := <-inv.chunks:
			if size += len(chunk); size > a.maxResponse {
				e.stop()
				to.end(failure{"Function.ResponseSizeTooLarge", fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", a.maxResponse)})
				return
			}
			to.chunk(chunk)
		case f := <-inv.ended:
			to.end(f)
			return
		case <-late.C:
			e.stop()
			to.end(failure{"Sandbox.Timedout", fmt.Sprintf("RequestId: %s Error: Task timed out after %.2f seconds", inv.id, a.timeout.Seconds())})
			return
		}
	}
}

// A streamed response is one of InvokeWithResponseStream.
type streamed struct{ w http.ResponseWriter }

func (s streamed) chunk(b []byte) { s.event("PayloadChunk", "application/octet-stream", b) }

func (s streamed) end(f failure) {
	raw := []byte("{}")
	if f.kind != "" {
		raw, _ = json.Marshal(map[string]string{"ErrorCode": "Unhandled", "ErrorDetails": string(f.json())})
	}
	s.event("InvokeComplete", "application/json", raw)
}

func (s streamed) event(kind, content string, payload []byte) {
	var m eventstream.Message
	m.Headers.Set(":message-type", eventstream.StringValue("event"))
	m.Headers.Set(":event-type", eventstream.StringValue(kind))
	m.Headers.Set(":content-type", eventstream.StringValue(content))
	m.Payload = payload
	_ = eventstream.NewEncoder().Encode(s.w, m)
	_ = http.NewResponseController(s.w).Flush()
}

// A buffered response is one of Invoke.
type buffered struct {
	w    http.ResponseWriter
	body []byte
}

func (b *buffered) chunk(p []byte) { b.body = append(b.body, p...) }

func (b *buffered) end(f failure) {
	if f.kind != "" {
		b.w.Header().Set("X-Amz-Function-Error", "Unhandled")
		b.body = f.json()
	}
	_, _ = b.w.Write(b.body)
}

// A failure is how an invocation ended; empty: well.
type failure struct{ kind, message string }

func (f failure) json() []byte {
	raw, _ := json.Marshal(map[string]string{"errorType": f.kind, "errorMessage": f.message})
	return raw
}

type invocation struct {
	id, tenant string
	payload    []byte
	deadline   time.Time
	chunks     chan []byte
	ended      chan failure // has room for one
}

func (i *invocation) end(f failure) {
	select {
	case i.ended <- f:
	default:
	}
}

// An environment is a process with the runtime API of its own.
type environment struct {
	c      *cloud
	tenant string
	api    *httptest.Server
	cmd    *exec.Cmd
	next   chan *invocation // has room for one
	dead   chan struct{}

	mu      sync.Mutex
	idle    *sync.Cond // current is nil
	current *invocation
	stopped bool
}

// await returns when nothing runs in the environment: a response can be read to its
// end earlier.
func (e *environment) await() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.current != nil {
		e.idle.Wait()
	}
}

// environment gives the invocation to one of its tenant that has nothing to do, or
// to a new one.
func (c *cloud) environment(inv *invocation) *environment {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.envs {
		if (e.tenant == inv.tenant || c.aws.careless) && e.take(inv) {
			c.last = e
			return e
		}
	}
	e := &environment{c: c, tenant: inv.tenant, next: make(chan *invocation, 1), dead: make(chan struct{})}
	e.idle = sync.NewCond(&e.mu)
	e.api = httptest.NewServer(http.HandlerFunc(e.serve))
	e.take(inv)
	e.start()
	c.envs, c.last = append(c.envs, e), e
	return e
}

func (e *environment) take(inv *invocation) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current != nil || e.stopped {
		return false
	}
	e.current = inv
	e.next <- inv
	return true
}

// launchMode in the environment makes this program begin an environment.
const launchMode = "STEPWARD_TEST_LAUNCH"

// start begins the process: a user without rights, the root read-only, /tmp and
// processes its own.
func (e *environment) start() {
	e.cmd = exec.Command("/proc/self/exe")
	e.cmd.Env = []string{
		launchMode + "=" + e.c.program, "AWS_LAMBDA_RUNTIME_API=" + e.api.Listener.Addr().String(), "AWS_LAMBDA_FUNCTION_NAME=fn",
		"_HANDLER=bootstrap", "AWS_ACCESS_KEY_ID=canary-id", "AWS_SECRET_ACCESS_KEY=canary-key", "AWS_SESSION_TOKEN=canary-token",
	}
	var said bytes.Buffer
	e.cmd.Stdout, e.cmd.Stderr = &said, &said
	e.cmd.Dir = "/"
	e.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 993, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 990, HostID: os.Getgid(), Size: 1}},
	}
	if err := e.cmd.Start(); err != nil {
		e.c.t.Errorf("start an environment: %v", err)
		close(e.dead)
		return
	}
	go func() {
		err := e.cmd.Wait()
		e.mu.Lock()
		e.stopped = true
		if e.current != nil {
			e.current.end(failure{"Runtime.ExitError", fmt.Sprintf("RequestId: %s Error: Runtime exited with error: %v: %s", e.current.id, err, &said)})
		}
		e.mu.Unlock()
		close(e.dead)
	}()
}

func (e *environment) stop() {
	e.mu.Lock()
	e.stopped = true
	e.mu.Unlock()
	if e.cmd.Process != nil {
		_ = e.cmd.Process.Kill()
	}
	<-e.dead
	e.api.CloseClientConnections()
	e.api.Close()
}

// launch is what start begins as.
func launch(program string) error {
	f, err := os.Open(program)
	if err != nil {
		return err
	}
	if err := unix.MountSetattr(-1, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	if err := unix.Mount("tmp", "/tmp", "tmpfs", 0, "mode=0777"); err != nil {
		return fmt.Errorf("a /tmp of its own: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("its own processes: %w", err)
	}
	env := os.Environ()[:0:0]
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, launchMode) {
			env = append(env, kv)
		}
	}
	runtime.LockOSThread()
	none := make([]unix.CapUserData, 2)
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
		return err
	}
	return unix.Exec(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), []string{"bootstrap"}, env)
}

const runtimePath = "/2018-06-01/runtime/invocation/"

// serve is the runtime API of the environment.
func (e *environment) serve(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	current := e.current
	e.mu.Unlock()
	id, verb, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, runtimePath), "/")
	switch {
	case !strings.HasPrefix(r.URL.Path, runtimePath):
		http.NotFound(w, r)
	case id == "next" && r.Method == http.MethodGet:
		select {
		case inv := <-e.next:
			w.Header().Set("Lambda-Runtime-Aws-Request-Id", inv.id)
			w.Header().Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(inv.deadline.UnixMilli()))
			w.Header().Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-north-1:123456789012:function:fn")
			w.Header().Set("Lambda-Runtime-Aws-Tenant-Id", inv.tenant)
			_, _ = w.Write(inv.payload)
		case <-r.Context().Done():
		case <-e.dead:
		}
	case current == nil || id != current.id || r.Method != http.MethodPost:
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errorMessage":"State transition is not allowed","errorType":"InvalidStateTransition"}`)
	case verb == "response":
		if e.stream(current, r) {
			e.done(current, trailer(r.Trailer))
			w.WriteHeader(http.StatusAccepted)
		}
	case verb == "error":
		var f struct{ ErrorType, ErrorMessage string }
		_ = json.NewDecoder(r.Body).Decode(&f)
		e.done(current, failure{f.ErrorType, f.ErrorMessage})
		w.WriteHeader(http.StatusAccepted)
	}
}

// stream returns false if the response broke off: the process has ended.
func (e *environment) stream(inv *invocation, r *http.Request) bool {
	for {
		buf := make([]byte, 64<<10)
		n, err := r.Body.Read(buf)
		if n > 0 {
			select {
			case inv.chunks <- buf[:n]:
			case <-e.dead:
				return false
			}
		}
		if err != nil {
			return err == io.EOF
		}
	}
}

func trailer(h http.Header) failure {
	body, _ := base64.StdEncoding.DecodeString(h.Get("Lambda-Runtime-Function-Error-Body"))
	var f struct{ ErrorType, ErrorMessage string }
	_ = json.Unmarshal(body, &f)
	return failure{h.Get("Lambda-Runtime-Function-Error-Type"), f.ErrorMessage}
}

// done lets the environment have another invocation.
func (e *environment) done(inv *invocation, f failure) {
	e.mu.Lock()
	e.current = nil
	e.idle.Broadcast()
	e.mu.Unlock()
	inv.end(f)
}

var built struct {
	sync.Mutex
	dir   string
	paths map[string]string
}

// buildFunction builds a program of this module, once.
func buildFunction(t *testing.T, name string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if path := built.paths[name]; path != "" {
		return path
	}
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "stepward-lambda-")
		if err != nil {
			t.Fatal(err)
		}
		built.dir, built.paths = dir, map[string]string{}
	}
	path := filepath.Join(built.dir, fmt.Sprint("bootstrap", len(built.paths)))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "github.com/stepward/stepward/sandbox/lambda/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the function: %v\n%s", err, out)
	}
	built.paths[name] = path
	return path
}
