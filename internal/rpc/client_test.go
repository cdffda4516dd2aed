package rpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/rpc"
)

// A transport has its one connection and never makes another, however it ends.
func TestTransportNeverDials(t *testing.T) {
	ours, theirs := net.Pipe()
	client := rpc.Transport(ours)
	theirs.Close()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, rpc.BaseURL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			t.Error("an answer from nowhere")
		}
		if ctx.Err() != nil {
			t.Error("it hung")
		}
		cancel()
	}
}

// Watch tells once that a connection is over, from whichever side, and not that
// a deadline has passed.
func TestWatch(t *testing.T) {
	for name, end := range map[string]func(ours, theirs net.Conn){
		"closed here":  func(ours, _ net.Conn) { ours.Close() },
		"closed there": func(_, theirs net.Conn) { theirs.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			raw, theirs := net.Pipe()
			var closed atomic.Int32
			ours := rpc.Watch(raw, func() { closed.Add(1) })
			if err := ours.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || closed.Load() != 0 {
				t.Errorf("a deadline: %v, closed %d", err, closed.Load())
			}
			if err := ours.SetReadDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			end(ours, theirs)
			for range 3 {
				if _, err := ours.Read(make([]byte, 1)); err == nil {
					t.Error("read from a connection that is over")
				}
			}
			ours.Close()
			theirs.Close()
			if closed.Load() != 1 {
				t.Errorf("told %d times", closed.Load())
			}
		})
	}
}

func TestWatchPassesBytes(t *testing.T) {
	raw, theirs := net.Pipe()
	ours := rpc.Watch(raw, func() {})
	go func() { _, _ = io.WriteString(theirs, "hello"); theirs.Close() }()
	if got, err := io.ReadAll(ours); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}
