package canary

import (
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// The search sees a value in each encoding, with anything around it, and across the parts that
// it reads a file in.
func TestSearch(t *testing.T) {
	const value = `q/W+"é<&>` + "0123456789abcdefghijklmnopqrstuvwxyz" + `&é"+/`
	s := NewSearcher(map[string][]string{"V": {value}})
	forms := map[string]string{
		"base64": base64.StdEncoding.EncodeToString([]byte(value + "xyz")), "base64, 1 before": base64.StdEncoding.EncodeToString([]byte(":" + value)),
		"base64, 2 before": base64.StdEncoding.EncodeToString([]byte("u:" + value)), "base64 of URLs": base64.URLEncoding.EncodeToString([]byte("abc" + value)),
		"base64 of URLs, 1 before": base64.URLEncoding.EncodeToString([]byte(":" + value)), "base64 of URLs, 2 before": base64.URLEncoding.EncodeToString([]byte("u:" + value)),
		"base32": base32.StdEncoding.EncodeToString([]byte("12345" + value)), "hex": fmt.Sprintf("%x", value), "HEX": fmt.Sprintf("%X", value),
		"query": url.Values{"k": {value}}.Encode(), "quoted-printable": quotedPrintable("é" + value), "decimal": fmt.Sprintf("%d", []byte(value)),
		"plain": value, "UTF-16": wide("a" + value), "reversed": encodings["reversed"](value),
	}
	if len(encodings) < 12 {
		t.Errorf("%d encodings", len(encodings))
	}
	for encoding, encode := range encodings {
		form := forms[encoding]
		if form == "" {
			form = encode(value)
		}
		for _, before := range []int{0, 1, Window - 10} {
			text, found := strings.Repeat(".", before)+form+"....", false
			if err := s.Read(strings.NewReader(text), func(n Needle, _ []byte) { found = found || n.Encoding == encoding && n.Of == "V" }); err != nil || !found {
				t.Errorf("%s after %d bytes is not found: %v", encoding, before, err)
			}
		}
	}
	if err := s.Read(strings.NewReader(value[1:20]+value[30:len(value)-1]), func(n Needle, _ []byte) { t.Errorf("found %v", n) }); err != nil {
		t.Error(err)
	}
}
