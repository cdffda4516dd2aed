package redact

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

// Strings of a document are rewritten, keys as well; all else stays byte for byte.
func TestJSON(t *testing.T) {
	s := newSet(t, odd, "s3cr3t-Token/42")
	escaped, err := json.Marshal(odd)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ in, want string }{
		{`{"a" : 1.50, "b":[ true,null ], "c":"plain\u0041\/"}`, `{"a" : 1.50, "b":[ true,null ], "c":"plain\u0041\/"}`},
		{`{"a":"x s3cr3t-Token/42 <y>", "s3cr3t-Token\/42": [1]}`, `{"a":"x [REDACTED:KEY1] <y>", "[REDACTED:KEY1]": [1]}`},
		{`[` + string(escaped) + `]`, `["[REDACTED:KEY0]"]`},
		{`"\u0073\u0033cr3t-Token\u002f42"`, `"[REDACTED:KEY1]"`},
		{`["` + base64.StdEncoding.EncodeToString([]byte("uu:s3cr3t-Token/42")) + `"]`, `["dXU6[REDACTED:KEY1]"]`},
		{`""`, `""`}, {`[]`, `[]`}, {` "a\\" `, ` "a\\" `},
	} {
		got, err := s.JSON([]byte(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", c.in, got, err, c.want)
		}
		if same, err := (&Set{}).JSON([]byte(c.in)); err != nil || string(same) != c.in {
			t.Errorf("without keys, %s: %s, %v", c.in, same, err)
		}
	}
	for _, in := range []string{"binary \x00 s3cr3t-Token/42", `{"cut":"s3cr3t-Token/42`, `[115,51,99,114,51,116,45,84,111,107,101,110,47,52,50]`} {
		var found *FoundError
		if _, err := s.JSON([]byte(in)); !errors.As(err, &found) || !slices.Equal(found.Names, []string{"KEY1"}) {
			t.Errorf("%q: %v", in, err)
		}
	}
	if _, err := s.JSON([]byte("\x00\x01 no JSON, and nothing in it")); err != nil {
		t.Error(err)
	}
}

// A scanner finds values across its writes, once each, and counts them.
func TestScanner(t *testing.T) {
	s := newSet(t, odd, "s3cr3t-Token/42", "never-printed-1")
	scanner := s.Scanner()
	for _, b := range []byte("PK\x03\x04 " + odd + "\x00\x00 s3cr3t-Token/42 and 7333637233742d546f6b656e2f3432\n") {
		if n, err := scanner.Write([]byte{b}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := scanner.Names(); !slices.Equal(got, []string{"KEY0", "KEY1"}) {
		t.Errorf("%q", got)
	}
	if got, want := s.Counts(), []Count{{"KEY0", "raw", 1}, {"KEY1", "hex", 1}, {"KEY1", "raw", 1}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := (&Set{}).Find([]byte(odd)); got != nil {
		t.Errorf("without keys: %q", got)
	}
}

// A guard passes on all, or nothing of a value, and then fails for good.
func TestGuard(t *testing.T) {
	s := newSet(t, "s3cr3t-Token/42")
	for _, c := range []struct {
		writes []string
		want   string
		found  bool
	}{
		{[]string{"all ", "of it s3cr3t-Tok", "ex"}, "all of it s3cr3t-Tokex", false},
		{[]string{"before s3cr3t-", "Token/42 after", " and on"}, "before ", true},
		{[]string{"cut off: s3cr3t-Tok"}, "cut off: ", true},
	} {
		var b strings.Builder
		g := s.Guard(&b)
		var err error
		for _, p := range c.writes {
			_, werr := g.Write([]byte(p))
			err = errors.Join(err, werr)
		}
		err = errors.Join(err, g.Close())
		var found *FoundError
		if errors.As(err, &found) != c.found || b.String() != c.want {
			t.Errorf("%q: %q, %v", c.writes, b.String(), err)
		}
	}
}
