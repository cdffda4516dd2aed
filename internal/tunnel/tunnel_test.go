package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// joined hides that both directions of a connection can be closed apart.
type joined struct{ net.Conn }

// tunnels returns both ends of one, through a server as the tool runner has it.
func tunnels(t *testing.T, framed bool) (worker, runner net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, epoch, err := Credentials(r)
		if err != nil || string(token) != "token" || epoch != 7 || r.URL.Path != Path {
			t.Errorf("presented %q, %d, %v", token, epoch, err)
		}
		c, err := Accept(w, r)
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}))
	t.Cleanup(s.Close)
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if framed {
		c = joined{c}
	}
	worker, err = Offer(c, []byte("token"), 7)
	if err != nil {
		t.Fatal(err)
	}
	runner = <-accepted
	t.Cleanup(func() { worker.Close(); runner.Close() })
	return worker, runner
}

// A request and its verdict, then bytes: each direction ends by itself, also over
// a connection that has no way to say so.
func TestTunnel(t *testing.T) {
	for _, framed := range []bool{false, true} {
		worker, runner := tunnels(t, framed)
		go func() {
			req, err := Asked(worker)
			if err != nil || req != (Request{"evil\x00.ok.com", 443}) {
				t.Errorf("asked %+v, %v", req, err)
			}
			if err := Answer(worker, Verdict{}); err != nil {
				t.Error(err)
			}
		}()
		if v, err := Ask(runner, Request{"evil\x00.ok.com", 443}); err != nil || v.Err() != nil {
			t.Fatalf("%+v, %v", v, err)
		}
		ours, program := net.Pipe()
		defer ours.Close()
		go Copy(runner, &halves{Reader: strings.NewReader("question"), Conn: program})
		got, err := io.ReadAll(worker)
		if string(got) != "question" || err != nil {
			t.Errorf("framed %t: %q, %v", framed, got, err)
		}
		answer := bytes.Repeat([]byte("answer"), 100_000) // many frames
		go Copy(worker, &halves{Reader: bytes.NewReader(answer), Conn: program})
		if got, err = io.ReadAll(runner); !bytes.Equal(got, answer) || err != nil {
			t.Errorf("framed %t: %d bytes of %d, %v", framed, len(got), len(answer), err)
		}
	}
}

// halves reads from something that ends.
type halves struct {
	io.Reader
	net.Conn
}

func (h *halves) Read(p []byte) (int, error) { return h.Reader.Read(p) }

func TestVerdict(t *testing.T) {
	var denied DeniedError
	var failed FailedError
	if err := (Verdict{Denied: "why"}).Err(); !errors.As(err, &denied) || err.Error() != "why" {
		t.Errorf("%v", err)
	}
	if err := (Verdict{Failed: "why"}).Err(); !errors.As(err, &failed) || errors.As(err, &denied) {
		t.Errorf("%v", err)
	}
	worker, runner := tunnels(t, false)
	go func() { _, _ = runner.Write([]byte{0xff, 0xff}) }()
	if _, err := Asked(worker); err == nil {
		t.Error("a message that is too long was read")
	}
	if err := Answer(worker, Verdict{Denied: strings.Repeat("x", maxMessage)}); err == nil {
		t.Error("a message that is too long was sent")
	}
}

// Whatever comes, frames end, and hold no more than they may.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02hi\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x01\x00\x00"))
	f.Add([]byte("\xff\xff\xff\xffhi"))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, b := net.Pipe()
		b.Close()
		out, err := io.ReadAll(&framed{Conn: &halves{Reader: bytes.NewReader(in), Conn: a}})
		if len(out) > len(in) || err == nil && len(in) > 0 && !bytes.Contains(in, make([]byte, 4)) {
			t.Errorf("%q is %q, %v", in, out, err)
		}
	})
}
