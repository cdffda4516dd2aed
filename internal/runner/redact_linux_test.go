package runner

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/internal/redact"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
)

const (
	secretName  = "TOKEN"
	secretValue = "s3cr3t-Token/42"
	marker      = "[REDACTED:TOKEN]"
)

func holdSecret(t *testing.T, set *redact.Set) {
	t.Helper()
	if err := set.Add(secretName, secretValue, false); err != nil {
		t.Fatal(err)
	}
}

// What a process prints is without the secrets of the sandbox, as soon as it holds
// any, wherever its writes end; a prompt that looks like the begin of one is seen.
func TestPumpRedacts(t *testing.T) {
	x := newExecs(config{}, 0, nil)
	e := newExec(nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { x.pump(r, e, rpc.Output_STDOUT); e.out[0].close(); close(done) }()
	var seen string
	until := func(want string) { // reads as a worker does
		t.Helper()
		for !strings.HasSuffix(seen, want) {
			wait := e.wake.wait()
			data, at, over := e.out[0].read(int64(len(seen)), 1<<20)
			if over || at != int64(len(seen)) {
				t.Fatalf("%q, over %v", seen, over)
			}
			if seen += string(data); len(data) == 0 {
				<-wait
			}
		}
		if leaked := strings.Contains(seen, secretValue); leaked != x.redactor.Empty() {
			t.Fatalf("%q", seen)
		}
	}
	write := func(s string) {
		if _, err := io.WriteString(w, s); err != nil {
			t.Fatal(err)
		}
	}
	write("control " + secretValue + "\n")
	until("control " + secretValue + "\n")
	seen = strings.Repeat("-", len(seen)) // of the same length
	holdSecret(t, &x.redactor)
	write("a " + secretValue[:9])
	write(secretValue[9:] + " z\n")
	until("a " + marker + " z\n")
	write("pass:")
	until("pass:")
	write(" s3")
	until(" s3") // after a pause
	write(".\n" + secretValue[:10])
	w.Close()
	<-done
	if data, _, _ := e.out[0].read(int64(len(seen)), 1<<20); string(data) != ".\n"+marker {
		t.Errorf("cut off: %q", data)
	}
}

// What a guest step answers, and what it shows before, is without secrets; a result that
// cannot be rewritten is refused.
func TestAnswerRedacts(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString([]byte("u:" + secretValue))
	for _, c := range []struct {
		name      string
		sent, got *rpc.GuestAnswer
	}{
		{"output", &rpc.GuestAnswer{Output: []byte(`{"a":"x ` + secretValue + `","n":1.0}`), Done: true},
			&rpc.GuestAnswer{Output: []byte(`{"a":"x ` + marker + `","n":1.0}`), Done: true}},
		{"error", &rpc.GuestAnswer{Failure: &rpc.GuestFailure{Message: "bad " + b64, Type: "*x.Error", Stack: "at " + secretValue, Permanent: true}, Done: true},
			&rpc.GuestAnswer{Failure: &rpc.GuestFailure{Message: "bad dT" + "[REDACTED:TOKEN]", Type: "*x.Error", Stack: "at " + marker, Permanent: true}, Done: true}},
		{"details", &rpc.GuestAnswer{Details: []byte(`["` + secretValue + `"]`)}, &rpc.GuestAnswer{Details: []byte(`["` + marker + `"]`)}},
		{"binary details", &rpc.GuestAnswer{Details: []byte("\x00" + secretValue)}, &rpc.GuestAnswer{}},
		{"shown", &rpc.GuestAnswer{Shown: &rpc.GuestShown{Name: "log", Value: []byte(`"` + secretValue + `"`), Entry: 7}},
			&rpc.GuestAnswer{Shown: &rpc.GuestShown{Name: "log", Value: []byte(`"` + marker + `"`), Entry: 7}}},
		{"nothing", &rpc.GuestAnswer{Output: []byte(`[1, "plain"]`), Done: true}, &rpc.GuestAnswer{Output: []byte(`[1, "plain"]`), Done: true}},
		{"binary", &rpc.GuestAnswer{Output: []byte("\x00\x01" + secretValue), Done: true},
			&rpc.GuestAnswer{Failure: &rpc.GuestFailure{Message: "the step's result is refused: redact: contains the value of TOKEN", Type: "redact.FoundError", Permanent: true}, Done: true}},
	} {
		raw, err := proto.Marshal(c.sent)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 7, len(raw)} {
			set := &redact.Set{}
			pass := func() (*rpc.GuestAnswer, []byte) {
				var out bytes.Buffer
				a := &answer{set: set, to: &out}
				for rest := raw; len(rest) > 0; rest = rest[min(size, len(rest)):] {
					if _, err := a.Write(rest[:min(size, len(rest))]); err != nil {
						t.Fatal(err)
					}
				}
				var m rpc.GuestAnswer
				if err := proto.Unmarshal(out.Bytes(), &m); err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				return &m, out.Bytes()
			}
			if _, off := pass(); !bytes.Equal(off, raw) {
				t.Errorf("%s, without secrets: %q", c.name, off)
			}
			holdSecret(t, set)
			got, out := pass()
			if got.Details != nil && len(got.Details) == 0 {
				got.Details = nil
			}
			if c.name == "error" { // how much of the base64 is left is its own affair
				if strings.Contains(got.Failure.Message, b64[4:12]) || !strings.Contains(got.Failure.Message, marker) {
					t.Errorf("%s: %v", c.name, got)
				}
				got.Failure.Message = c.got.Failure.Message
			}
			if !proto.Equal(got, c.got) || len(out) == 0 {
				t.Errorf("%s in writes of %d: %v, want %v", c.name, size, got, c.got)
			}
		}
	}
	var out bytes.Buffer
	set := &redact.Set{}
	holdSecret(t, set)
	a := &answer{set: set, to: &out}
	if _, err := a.Write([]byte("\x00\x00" + secretValue)); err != nil || out.Len() > 0 {
		t.Errorf("what is no answer: %q, %v", &out, err)
	}
}

// A text that was cut off in the middle of a secret ends before it, whatever the secret consists of.
func TestCutTextRedacts(t *testing.T) {
	for _, value := range []string{secretValue, "pässwörd-ÄÖÜ-ñandú-€€€€"} {
		set := &redact.Set{}
		if err := set.Add("TOKEN", value, false); err != nil {
			t.Fatal(err)
		}
		for n := 8; n < len(value); n++ {
			got := uncut(text(strings.Repeat(".", 64<<10-n)+value+"and more"), set.Redact)
			if want := marker + cutMark; !strings.HasSuffix(got, "."+want) && !strings.HasSuffix(got, "."+value[:8]+want) {
				if i := strings.TrimLeft(got, "."); len(strings.TrimSuffix(i, cutMark)) >= 8 {
					t.Errorf("cut after %d bytes: %q", n, i)
				}
			}
		}
	}
	if got := uncut("all…", strings.ToUpper); got != "ALL…" {
		t.Errorf("got %q", got)
	}
}

// Files and trees with a secret in them are refused; names and errors are without it.
func TestFilesRefuse(t *testing.T) {
	s := newServer(config{})
	_, handler := rpcconnect.NewRunnerHandler(service{s}, s.options()...)
	web := httptest.NewServer(handler)
	defer web.Close()
	c := rpcconnect.NewRunnerClient(web.Client(), web.URL)
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pad := strings.Repeat("0123456789abcdef", 40_000)
	write("clean/plain", pad)
	write("late/file", pad+secretValue+pad)
	write("name/"+base64.RawURLEncoding.EncodeToString([]byte("--"+secretValue+"--")), "")
	read := func(name string, offset, limit int64) (string, error) {
		stream, err := c.ReadFile(t.Context(), connect.NewRequest(&rpc.ReadFileRequest{Path: filepath.Join(dir, name), Offset: offset, Limit: limit}))
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		var b strings.Builder
		for stream.Receive() {
			b.Write(stream.Msg().Data)
		}
		return b.String(), stream.Err()
	}
	tree := func(name string) ([]byte, error) {
		stream, err := c.GetTree(t.Context(), connect.NewRequest(&rpc.GetTreeRequest{Path: filepath.Join(dir, name), MaxBytes: 1 << 30, MaxFiles: 100, MaxDepth: 10}))
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		var b []byte
		for stream.Receive() {
			b = append(b, stream.Msg().Data...)
		}
		return b, stream.Err()
	}
	list := func(name string) string {
		stream, err := c.ReadDir(t.Context(), connect.NewRequest(&rpc.ReadDirRequest{Path: filepath.Join(dir, name)}))
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		return stream.Msg().Entries[0].Name
	}
	missing := func() string {
		_, err := c.Stat(t.Context(), connect.NewRequest(&rpc.StatRequest{Path: filepath.Join(dir, "no", secretValue)}))
		if connect.CodeOf(err) != connect.CodeNotFound {
			t.Fatal(err)
		}
		return err.Error()
	}
	// The control: without the redactor all of it is seen.
	if got, err := read("late/file", 0, 0); err != nil || !strings.Contains(got, secretValue) {
		t.Fatal(err)
	}
	if got, err := tree("late"); err != nil || !bytes.Contains(got, []byte(secretValue)) {
		t.Fatal(err)
	}
	if !strings.Contains(missing(), secretValue) || strings.Contains(list("name"), marker) {
		t.Fatal("control", missing(), list("name"))
	}
	holdSecret(t, &s.execs.redactor)

	refused := func(what string, content string, err error) {
		t.Helper()
		if connect.CodeOf(err) != connect.CodePermissionDenied || !strings.Contains(err.Error(), "contains the value of TOKEN") || strings.Contains(content, secretValue[:8]) {
			t.Errorf("%s: %v", what, err)
		}
	}
	got, err := read("late/file", 0, 0)
	refused("the file", got, err)
	at := int64(len(pad))
	got, err = read("late/file", at+4, 0)
	refused("from the middle of the value on", got, err)
	got, err = read("late/file", 0, at+10)
	refused("up to the middle of the value", got, err)
	got, err = read("late/file", at+100, 1000) // the 64 KiB before are read as well
	refused("right behind the value", got, err)
	if got, err := read("late/file", at+200_000, 1000); err != nil || got != pad[200_000-len(secretValue):][:1000] {
		t.Errorf("far behind it: %d bytes, %v", len(got), err)
	}
	content, err := tree("late")
	refused("the tree", string(content), err)
	_, err = tree("name")
	refused("the tree with a name", "", err)
	if content, err := tree("clean"); err != nil {
		t.Error(err)
	} else {
		r := tar.NewReader(bytes.NewReader(content))
		if h, err := r.Next(); err != nil || h.Size != int64(len(pad)) {
			t.Error(h, err)
		} else if all, err := io.ReadAll(r); err != nil || string(all) != pad {
			t.Error(err)
		}
	}
	if got := list("name"); !strings.Contains(got, marker) {
		t.Errorf("a name: %q", got)
	}
	if got := missing(); !strings.Contains(got, marker) || strings.Contains(got, secretValue) {
		t.Errorf("an error: %q", got)
	}
	if err := (redactErrors{&s.execs.redactor}).redact(context.Canceled); !errors.Is(err, context.Canceled) {
		t.Error("an error without a secret became another")
	}
}
