package runner

import (
	"bytes"
	"io"
	"testing"
)

// talk is a program that says all at once.
type talk struct {
	io.Reader
	bytes.Buffer
}

func (t *talk) Read(p []byte) (int, error) { return t.Reader.Read(p) }

func TestSocksRequest(t *testing.T) {
	for in, want := range map[string]struct {
		host string
		port int
		code byte
		fail bool
	}{
		"\x05\x01\x00\x05\x01\x00\x03\x02ok\x01\xbb":                               {host: "ok", port: 443},
		"\x05\x02\x02\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50":                 {host: "127.0.0.1", port: 80},
		"\x05\x01\x00\x05\x01\x00\x04" + string(make([]byte, 15)) + "\x01\x00\x50": {host: "::1", port: 80},
		"\x05\x01\x00\x05\x01\x00\x03\x0cevil\x00.ok.com\x00\x50":                  {host: "evil\x00.ok.com", port: 80}, // for the worker to refuse
		"\x05\x01\x00\x05\x02\x00\x03\x02ok\x01\xbb":                               {host: "ok", port: 443, code: socksNoCommand},
		"\x05\x01\x00\x05\x03\x00\x03\x02ok\x01\xbb":                               {host: "ok", port: 443, code: socksNoCommand},
		"\x05\x01\x00\x05\x01\x00\x09\x02ok\x01\xbb":                               {code: socksNoAddressing},
		"\x05\x01\x02": {fail: true}, "\x05\x00": {fail: true}, "\x05": {fail: true}, "": {fail: true},
		"\x05\x01\x00\x05\x01\x00\x03\x20ok\x01\xbb": {fail: true},
	} {
		host, port, code, err := socksRequest(&talk{Reader: bytes.NewReader([]byte(in))})
		if (err != nil) != want.fail || err == nil && (host != want.host || port != want.port || code != want.code) {
			t.Errorf("%q: %q, %d, %d, %v", in, host, port, code, err)
		}
	}
}

func FuzzSocksRequest(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x02ok\x01\xbb"))
	f.Fuzz(func(t *testing.T, in []byte) {
		host, port, _, err := socksRequest(&talk{Reader: bytes.NewReader(in)})
		if err == nil && (len(host) > 255 || port > 65535) {
			t.Errorf("%q: %q, %d", in, host, port)
		}
	})
}
