package redact

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/url"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// Any value, in any encoding, behind and before anything, in any writes: no 8 bytes
// in a row are left of what depends on it, and the writes make no difference.
func TestAnyValue(t *testing.T) {
	core := func(width int, encode func([]byte) string) func(*rapid.T, string) (string, string) {
		return func(t *rapid.T, value string) (hidden, printed string) {
			before := rapid.SliceOfN(rapid.Byte(), 0, 7).Draw(t, "encoded before")
			after := rapid.SliceOfN(rapid.Byte(), 0, 7).Draw(t, "encoded after")
			printed = encode([]byte(string(before) + value + string(after)))
			return printed[(len(before)*8+width-1)/width : (len(before)+len(value))*8/width], printed
		}
	}
	whole := func(encode func(string) string) func(*rapid.T, string) (string, string) {
		return func(_ *rapid.T, value string) (hidden, printed string) { return encode(value), encode(value) }
	}
	encodings := []func(*rapid.T, string) (hidden, printed string){
		whole(func(s string) string { return s }),
		whole(url.QueryEscape), whole(url.PathEscape), whole(html.EscapeString),
		whole(func(s string) string { return hex.EncodeToString([]byte(s)) }),
		whole(func(s string) string { return fmt.Sprintf("% X", s) }),
		whole(decimal),
		whole(func(s string) string {
			b, _ := json.Marshal(s)
			return string(b[1 : len(b)-1])
		}),
		core(6, base64.StdEncoding.EncodeToString), core(6, base64.URLEncoding.EncodeToString),
		core(5, base32.StdEncoding.EncodeToString),
	}
	value := rapid.Custom(func(t *rapid.T) string {
		return string(rapid.SliceOfN(rapid.OneOf(rapid.ByteRange('!', '~'), rapid.ByteRange('a', 'z')), 10, 60).Draw(t, "bytes"))
	})
	rapid.Check(t, func(t *rapid.T) {
		s := &Set{}
		secret := value.Draw(t, "value")
		if s.Add("KEY", secret, false) != nil {
			t.Skip("weak")
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "others") {
			alike := secret[:rapid.IntRange(0, len(secret)).Draw(t, "alike")]
			_ = s.Add(fmt.Sprint("OTHER", i), alike+value.Draw(t, "other"), true)
		}
		hidden, printed := rapid.SampledFrom(encodings).Draw(t, "encoding")(t, secret)
		if rapid.Bool().Draw(t, "wrapped") {
			printed = wrap(printed, rapid.IntRange(1, 80).Draw(t, "width"), rapid.SampledFrom([]string{"\n", "\r\n", "\x1b[0m\n"}).Draw(t, "break"))
		}
		before, after := string(rapid.SliceOf(rapid.Byte()).Draw(t, "before")), string(rapid.SliceOf(rapid.Byte()).Draw(t, "after"))
		// A digit right before digits, and an escape sequence without an end, make other text of it.
		text := before + "\a\n> " + printed + "\n" + after
		var out strings.Builder
		w := s.Writer(&out)
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "write")
			_, _ = io.WriteString(w, rest[:n])
			rest = rest[n:]
		}
		_ = w.Close()
		if out.String() != s.Redact(text) {
			t.Fatalf("%q differs from %q", out.String(), s.Redact(text))
		}
		seen := unbreak(strings.ReplaceAll(out.String(), "\x1b[0m", ""))
		if !strings.Contains(seen, "[REDACTED:") || len(hidden) > 15 && strings.Contains(seen, hidden[4:len(hidden)-3]) {
			t.Fatalf("%q is left in %q", hidden, out.String())
		}
	})
}

// Values of two letters, of which many begin alike and some are the begin of others or repeat
// themselves, in a text of their parts: none is left.
func TestAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.SliceOfN(rapid.SampledFrom([]byte("ab")), 1, 40)
		s, values := &Set{}, []string(nil)
		for i := range rapid.IntRange(1, 8).Draw(t, "values") {
			value := ""
			if i > 0 {
				like := rapid.SampledFrom(values).Draw(t, "like")
				value = like[:rapid.IntRange(0, len(like)).Draw(t, "alike")]
			}
			for len(value) < 30 || Weak(value) {
				value += string(letters.Draw(t, "letters"))
			}
			value += strings.Repeat(string(letters.Draw(t, "period")), rapid.IntRange(0, 80).Draw(t, "periods"))
			if err := s.Add(fmt.Sprint("KEY", i), value, false); err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		var text, out strings.Builder
		w := s.Writer(&out)
		for range rapid.IntRange(1, 20).Draw(t, "pieces") {
			piece := rapid.SampledFrom(values).Draw(t, "of")
			if rapid.Bool().Draw(t, "cut") {
				piece = piece[rapid.IntRange(0, len(piece)).Draw(t, "from"):]
			}
			text.WriteString(piece)
			_, _ = io.WriteString(w, piece)
		}
		_ = w.Close()
		if got := s.Redact(text.String()); got != out.String() {
			t.Fatalf("%q differs from %q", out.String(), got)
		}
		for _, value := range values {
			if strings.Contains(out.String(), value) {
				t.Fatalf("%q of %q is left in %q", value, values, out.String())
			}
		}
	})
}

// What is made of a part's begin is what its encoding begins with, and codecs that are
// held for alike are: what a text is compared with depends on it.
func TestCodecs(t *testing.T) {
	characters := rapid.OneOf(rapid.SampledFrom([]string{"\n", "\r\n", "\xff", "\xc3", "%2f", "%", "&", `\`, `"`, "'", "=", "/", "é", "€", "😀", "\x00", " "}),
		rapid.StringMatching(`[a-zA-Z0-9+/_-]{1,200}`))
	rapid.Check(t, func(t *rapid.T) {
		part := strings.Join(rapid.SliceOfN(characters, 1, 40).Draw(t, "part"), "")
		for len(part) < rapid.IntRange(1, 2000).Draw(t, "length") {
			part += part
		}
		each, n := each(part), rapid.IntRange(1, 2000).Draw(t, "n")
		first := map[string][]byte{}
		for i, c := range codecs() {
			all := c.encode(part)
			if len(all) == 0 {
				if kind := c.kind(part, each); kind != "" {
					t.Fatalf("codec %d, %s: %q is said to become %q, and becomes nothing", i, c.class, part, kind)
				}
				continue
			}
			begin, whole := c.begin(part, n)
			if !bytes.HasPrefix(all, begin) || whole != (len(begin) == len(all)) || !whole && len(begin) < n {
				t.Fatalf("codec %d, %s: the begin of %q is %q of %q (whole: %v)", i, c.class, part, begin, all, whole)
			}
			kind := c.kind(part, each)
			if like, ok := first[kind]; kind == "" {
				t.Fatalf("codec %d, %s: %q is said to become nothing", i, c.class, part)
			} else if !ok {
				first[kind] = all
			} else if !bytes.Equal(like, all) {
				t.Fatalf("codec %d, %s: %q is said to become %q, and becomes %q", i, c.class, part, like, all)
			}
		}
	})
}

// Keys are added while streams are written.
func TestConcurrent(t *testing.T) {
	s := &Set{}
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 5 {
				name, value := fmt.Sprintf("KEY%d-%d", i, j), fmt.Sprintf("value-%d-%d-of-a-key", i, j)
				if err := s.Add(name, value, false); err != nil {
					t.Error(err)
				}
				if got := s.Redact("a " + value + " z"); got != "a [REDACTED:"+name+"] z" {
					t.Error(got)
				}
			}
		})
	}
	all.Wait()
	if n := len(s.Counts()); n != 20 {
		t.Errorf("%d counts", n)
	}
}

func FuzzWriter(f *testing.F) {
	const value = "s3cr3t-Token/42"
	f.Add([]byte("a s3cr3t-\x1b[1mToken/42"), uint8(3))
	f.Add([]byte("00000000: 7333 6372 3374 2d54 6f6b 656e 2f34 320a  s3cr3t-Token/42.\n"), uint8(1))
	f.Add([]byte("0x73, 0x33, 0x63, 0x72, 0x33, 0x74, 0x2d, 0x54, 0x6f"), uint8(2))
	f.Add([]byte("s3cr\xe2\x80\x8b3t-Tok\x1b]x\x1b\\en/42"), uint8(9))
	s := newSet(f, value, "abcd1234abcd1234abcd1234-tail", "7333-Z0=\x1b[x")
	f.Fuzz(func(t *testing.T, text []byte, size uint8) {
		var writes []string
		for rest := text; len(rest) > 0; {
			n := min(len(rest), 1+int(size))
			writes, rest = append(writes, string(rest[:n])), rest[n:]
		}
		whole := s.Redact(string(text))
		if got := written(t, s, writes...); got != whole {
			t.Errorf("%q in writes of %d: %q, not %q", text, size, got, whole)
		}
		if strings.Contains(whole, value) {
			t.Errorf("%q", whole)
		}
	})
}

func FuzzJSON(f *testing.F) {
	s := newSet(f, "s3cr3t-Token/42")
	f.Add([]byte(`{"a\\":["s3cr3t-Token\/42",1.0,{"s3cr3t-Token/42":null}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		got, err := s.JSON(document)
		if err != nil {
			return
		}
		if json.Valid(document) != json.Valid(got) || len(s.Find(got)) > 0 {
			t.Errorf("%q: %q", document, got)
		}
		if len(s.Find(document)) == 0 && string(got) != string(document) && !strings.Contains(string(document), `\`) && !strings.Contains(string(document), "s3cr3t-T") {
			t.Errorf("%q became %q, without a value in it", document, got)
		}
	})
}

// Escape sequences, dumps and line breaks between parts of a value, in any order: it makes no difference which bytes are
// read one by one and which at once.
func TestColoured(t *testing.T) {
	const value = "s3cr3t-Token/42"
	raw := hex.EncodeToString([]byte(value))
	s := newSet(t, value)
	pieces := []string{
		value, value[:6], value[6:], raw, raw[:11], raw[11:], "\x1b[1m", "\x1b[0;31m", "\x1b[", "\x1b]0;t\x07", "\x1b", "\u200b", "\xe2\x80", "—",
		"\n", "\r\n", " ", "x", "ok", "package/17", "00000000: ", "00000000: 7333 6372 3374 2d54 6f6b 656e 2f34 3200  s3cr3t-Token/42.\n", "0x73, ", "0", "m",
	}
	rapid.Check(t, func(r *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 1, 12).Draw(r, "text"), "")
		var single []string
		for i := range len(text) {
			single = append(single, text[i:i+1])
		}
		if whole, apart := s.Redact(text), written(t, s, single...); whole != apart {
			r.Fatalf("%q: %q at once, %q byte by byte", text, whole, apart)
		}
	})
}
