package main

import (
	"io"
	"net"
	"testing"
)

// What is said on a wire that is held does not arrive, and nor does the end of who said it.
func TestWire(t *testing.T) {
	w := newWire()
	a, aw := net.Pipe()
	b, bw := net.Pipe()
	w.join(aw, bw)
	go io.WriteString(a, "one")
	got := make([]byte, 3)
	if _, err := io.ReadFull(b, got); err != nil || string(got) != "one" {
		t.Fatalf("got %q, %v", got, err)
	}
	w.hold()
	if _, err := io.WriteString(a, "two"); err != nil {
		t.Fatal(err)
	}
	a.Close()
	w.end()
	if rest, err := io.ReadAll(b); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
}
