package shim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

// FuzzMessage reads what comes from a shim: an event or an error, no panic.
func FuzzMessage(f *testing.F) {
	seed, err := encode(Event{Code: 3, Signal: "SIGKILL", StartError: "ä"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:5])
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 9, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if n := len(raw); n >= 4 && binary.BigEndian.Uint32(raw) > 1<<20 && binary.BigEndian.Uint32(raw) <= maxMessage {
			return // it would be allocated
		}
		r := bytes.NewReader(raw)
		for {
			var e, back Event
			if err := read(r, &e); err != nil {
				return
			}
			again, err := encode(e)
			if err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
			if err := read(bytes.NewReader(again), &back); err != nil || back != e {
				t.Fatalf("%+v came back as %+v, %v", e, back, err)
			}
		}
	})
}

func TestShortMessage(t *testing.T) {
	var e Event
	if err := read(bytes.NewReader([]byte{0, 0, 1, 0, 1}), &e); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a message that breaks off: %v", err)
	}
	if err := read(bytes.NewReader([]byte{0xff, 0, 0, 0, 1}), &e); err == nil {
		t.Error("a message of 4 GB was read")
	}
}
