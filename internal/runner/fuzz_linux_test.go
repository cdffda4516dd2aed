package runner

import (
	"bytes"
	"context"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/internal/rpc"
)

// FuzzGuest serves a request of any bytes: an answer or an error, no panic, and
// an answer that the worker can decode whatever the step says.
func FuzzGuest(f *testing.F) {
	var call bytes.Buffer
	if _, err := protodelim.MarshalTo(&call, &rpc.GuestCall{Step: "s", Input: []byte("in"), TimeoutNs: 1}); err != nil {
		f.Fatal(err)
	}
	f.Add(call.Bytes())
	f.Add([]byte{})
	f.Add([]byte{0xff, 0x0a, 0x00})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var out bytes.Buffer
		echo := func(_ context.Context, r GuestRequest) ([]byte, error) {
			if len(r.Input)%2 == 1 {
				panic(string(r.Input)) // which need not be UTF-8
			}
			return r.Input, nil
		}
		if err := serveGuest(echo, bytes.NewReader(raw), &out); err != nil {
			return
		}
		var a rpc.GuestAnswer
		if err := proto.Unmarshal(out.Bytes(), &a); err != nil || !a.Done {
			t.Fatalf("answer %v, %v", &a, err)
		}
	})
}

// FuzzText checks that any string can be sent as a protobuf string.
func FuzzText(f *testing.F) {
	f.Add("plain")
	f.Add("\xff\xfe")
	f.Add(string(bytes.Repeat([]byte("ä"), 40<<10)))
	f.Fuzz(func(t *testing.T, s string) {
		got := text(s)
		if !utf8.ValidString(got) || len(got) > 3*(64<<10)+3 {
			t.Errorf("%d bytes, valid %v", len(got), utf8.ValidString(got))
		}
	})
}
