package redact

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"html"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

// A value with what most encodings escape.
const odd = `p@ss/W0rd+"quo'te"&<é>$x\y=1`

func add(t testing.TB, s *Set, name, value string) {
	t.Helper()
	if err := s.Add(name, value, false); err != nil {
		t.Fatal(err)
	}
}

func newSet(t testing.TB, values ...string) *Set {
	s := &Set{}
	for i, v := range values {
		add(t, s, fmt.Sprintf("KEY%d", i), v)
	}
	return s
}

// written returns what a Writer makes of some writes.
func written(t testing.TB, s *Set, writes ...string) string {
	t.Helper()
	var b strings.Builder
	w := s.Writer(&b)
	for _, p := range writes {
		if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Held() != 0 {
		t.Error("after Close it still holds something back")
	}
	return b.String()
}

// leaks reports whether 8 bytes in a row of what was to be hidden are in the text.
func leaks(text, hidden string) bool {
	for i := 0; i+8 <= len(hidden); i++ {
		if strings.Contains(text, hidden[i:i+8]) {
			return true
		}
	}
	return false
}

// hides fails if what was to be hidden is in the redacted text, however it is
// written, or if it is not in the text itself: then the test would see nothing.
func hides(t *testing.T, s *Set, hidden, before, text, after string) {
	t.Helper()
	whole := before + text + after
	if off := written(t, &Set{}, whole); !leaks(off, hidden) {
		t.Fatalf("%q is not in the text either: %q", hidden, off)
	}
	got := written(t, s, whole)
	if leaks(got, hidden) || !strings.Contains(got, "[REDACTED:KEY0]") {
		t.Errorf("%q: %q", whole, got)
	}
	if !strings.HasPrefix(got, before) || !strings.HasSuffix(got, after) {
		t.Errorf("more than the value is gone from %q: %q", whole, got)
	}
	for range 20 {
		var writes []string
		for rest := whole; rest != ""; {
			n := 1 + rand.IntN(min(len(rest), 9))
			writes, rest = append(writes, rest[:n]), rest[n:]
		}
		if split := written(t, s, writes...); split != got {
			t.Fatalf("%q: %q, not %q", writes, split, got)
		}
	}
	if names := s.Find([]byte(whole)); !slices.Equal(names, []string{"KEY0"}) {
		t.Errorf("Find(%q) = %v", whole, names)
	}
}

// Case 44: a value is found wherever the writes that it comes in end.
func TestEverySplit(t *testing.T) {
	const value = "s3cr3t-Token/42"
	s := newSet(t, value)
	enc := base64.StdEncoding.EncodeToString([]byte("user:" + value + "!"))
	for _, c := range []struct{ text, hidden, want string }{
		{"a " + value + " z\n", value, "a [REDACTED:KEY0] z\n"},
		{value, value, "[REDACTED:KEY0]"},
		{value + value, value, "[REDACTED:KEY0]"},
		{"s3cr3t-s3cr3t-Token/42\n", value, "s3cr3t-[REDACTED:KEY0]\n"},
		{"Basic " + enc + "\n", enc[8 : len(enc)-4], ""},
		{"x " + hex.EncodeToString([]byte(value)) + "\n", hex.EncodeToString([]byte(value)), "x [REDACTED:KEY0]\n"},
		{"\x1b[1ms3cr\x1b[0;31m3t-Tok\u200ben/42\x1b[0m\n", "s3cr\x1b[0;31m3t-Tok\u200ben/42", "\x1b[1m[REDACTED:KEY0]\x1b[0m\n"},
		{"ok \x1b[2mok 7333637233\x1b[1m742d546f6b656e2f3432\n", "7333637233\x1b[1m742d546f6b656e2f3432", "ok \x1b[2mok [REDACTED:KEY0]\n"},
		{"00000000: " + hex.EncodeToString([]byte(value)) + "-Token\x1b[1m\n", hex.EncodeToString([]byte(value)), "00000000: [REDACTED:KEY0]-Token\x1b[1m\n"}, // it is no dump
		{"noise\x1b]noise\n" + hex.EncodeToString([]byte(value)) + "\n", hex.EncodeToString([]byte(value)), "noise\x1b]noise\n[REDACTED:KEY0]\n"},
		{"73 33 63 72 33 74 2d 54\n6f 6b 65 6e 2f 34 32\n", "73 33 63 72 33 74 2d 54\n6f 6b 65 6e 2f 34 32", "[REDACTED:KEY0]\n"},
	} {
		if !leaks(written(t, &Set{}, c.text), c.hidden) {
			t.Fatalf("control: %q is not in %q", c.hidden, c.text)
		}
		whole := written(t, s, c.text)
		if c.want != "" && whole != c.want || leaks(whole, c.hidden) {
			t.Errorf("%q: %q, want %q", c.text, whole, c.want)
		}
		check := func(writes ...string) {
			if got := written(t, s, writes...); got != whole {
				t.Fatalf("%q: %q, not %q", writes, got, whole)
			}
		}
		check(strings.Split(c.text, "")...)
		for i := range len(c.text) {
			check(c.text[:i], c.text[i:])
			for j := i; j <= len(c.text); j++ {
				check(c.text[:i], c.text[i:j], c.text[j:])
				k := j + rand.IntN(len(c.text)-j+1)
				check(c.text[:i], c.text[i:j], c.text[j:k], c.text[k:])
			}
		}
	}
}

// Case 44: what two streams print has nothing to do with each other.
func TestInterleaved(t *testing.T) {
	const value = "s3cr3t-Token/42"
	s := newSet(t, value)
	var one, two strings.Builder
	stdout, stderr := s.Writer(&one), s.Writer(&two)
	for i := range len(value) {
		_, _ = stdout.Write([]byte(value[i : i+1]))
		_, _ = stderr.Write([]byte(strings.ToUpper(value[i : i+1])))
	}
	_, _ = stdout.Close(), stderr.Close()
	if one.String() != "[REDACTED:KEY0]" || two.String() != strings.ToUpper(value) {
		t.Errorf("%q, %q", &one, &two)
	}
}

// Case 44: a large value, and one that is cut off in the middle.
func TestLongAndCutOff(t *testing.T) {
	value := random(16 << 10)
	s := newSet(t, value)
	for _, size := range []int{1, 7, 4096, 1 << 20} {
		var writes []string
		for p := range slices.Chunk([]byte("a "+value+" z"), size) {
			writes = append(writes, string(p))
		}
		if got := written(t, s, writes...); got != "a [REDACTED:KEY0] z" {
			t.Errorf("in writes of %d bytes: %.200q", size, got)
		}
	}
	for _, n := range []int{8, 9, 5000} {
		if got := written(t, s, "a ", value[:n]); got != "a [REDACTED:KEY0]" {
			t.Errorf("cut off at %d: %.200q", n, got)
		}
	}
	if got := written(t, s, value[:7]); got != value[:7] {
		t.Errorf("7 bytes: %q", got)
	}
	// What is larger than a writer holds back is a hit as far as it goes.
	large := random(90 << 10)
	s = newSet(t, large)
	if got := written(t, s, "a ", large[:70<<10], large[70<<10:], " z"); got != "a [REDACTED:KEY0] z" {
		t.Errorf("90 KiB: %.200q", got)
	}
	if got := written(t, s, "a ", large[:70<<10], large[70<<10:80<<10], " z"); got != "a [REDACTED:KEY0] z" {
		t.Errorf("80 of 90 KiB: %.200q", got)
	}
}

func random(n int) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	return string(b)
}

// Case 45: encodings, with what stands around them.
func TestEncodings(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString
	marshaled := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[1 : len(b)-1])
	}
	for _, value := range []string{"s3cr3t-Token/42", odd, random(40)} {
		s := newSet(t, value)
		in := func(class, text string) {
			t.Helper()
			before := s.Counts()
			hides(t, s, text, "<< ", text, " >>\n")
			if !slices.ContainsFunc(s.Counts(), func(c Count) bool { return c.Class == class && !slices.Contains(before, c) }) {
				t.Errorf("%q was not counted as %s: %v", text, class, s.Counts())
			}
		}
		in("raw", value)
		in("hex", hex.EncodeToString([]byte(value)))
		in("hex", strings.ToUpper(hex.EncodeToString([]byte(value))))
		in("hex", strings.TrimSpace(fmt.Sprintf("% x", value)))
		in("hex", strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", []byte(value)), "[]byte{"), "}"))
		in("hex", strings.ReplaceAll(fmt.Sprintf("% x", value), " ", ":"))
		in("bytes", decimal(value))
		in("bytes", strings.ReplaceAll(decimal(value), " ", ", "))
		// Symbols that depend on the value alone.
		in("base32", base32.StdEncoding.EncodeToString([]byte(value))[:len(value)*8/5])
		in("base64", base64.StdEncoding.EncodeToString([]byte(value))[:len(value)*8/6])
		in("base64 twice", b64([]byte(b64([]byte(value))[:len(value)*8/6]))[:len(value)*8/6*8/6])
		for _, order := range []int{0, 1} {
			var wide []byte
			for _, u := range utf16.Encode([]rune(value)) {
				wide = append(wide, byte(u>>(8*order)), byte(u>>(8-8*order)))
			}
			in("utf16", string(wide))
		}
		little := binary.LittleEndian
		var command []byte
		for _, u := range utf16.Encode([]rune(value)) {
			command = little.AppendUint16(command, u)
		}
		in("base64", b64(command)[:len(command)*8/6]) // powershell -EncodedCommand
		var octal, entities strings.Builder
		for i := range len(value) {
			fmt.Fprintf(&octal, `\%03o`, value[i])
			fmt.Fprintf(&entities, "&#%d;", value[i])
		}
		in("octal", octal.String()) // bytea_output = escape
		in("xml", entities.String())
		var all strings.Builder
		for _, u := range utf16.Encode([]rune(value)) {
			fmt.Fprintf(&all, `\u%04x`, u)
		}
		in("json", all.String())
		in("json", marshaled(all.String())) // JSON in JSON
		if value == odd {
			in("json", marshaled(value))
			in("json", marshaled(marshaled(value)))
			in("url", url.QueryEscape(value))
			in("url", url.QueryEscape(url.QueryEscape(value)))
			in("url", url.PathEscape(value))
			in("xml", html.EscapeString(value))
			in("shell", strings.ReplaceAll(value, "'", `'\''`)) // set -x
			in("quoted-printable", strings.ReplaceAll(value, "=", "=3D"))
			in("powershell", strings.ReplaceAll(value, "'", "''"))
		}
	}
}

func TestQuoted(t *testing.T) {
	const value = "nul\x00and\x7f'more'"
	s := newSet(t, value)
	if got := s.Redact(fmt.Sprintf("bad key %q", value)); got != `bad key "[REDACTED:KEY0]"` {
		t.Error(got)
	}
}

// Case 45: base64 and base32 at every alignment, alone and twice, and wrapped.
func TestAlignments(t *testing.T) {
	for range 300 {
		value := random(8 + rand.IntN(33))
		if weak(value) {
			continue
		}
		s := newSet(t, value)
		text := random(rand.IntN(9)) + value + random(rand.IntN(9))
		enc := base64.StdEncoding
		if rand.IntN(2) == 0 {
			enc = base64.URLEncoding
		}
		once := enc.EncodeToString([]byte(text))
		for _, printed := range []string{
			once,
			enc.EncodeToString([]byte(random(rand.IntN(4)) + once + random(rand.IntN(4)))),
			base32.StdEncoding.EncodeToString([]byte(text)),
			wrap(once, 1+rand.IntN(76), "\n"), wrap(once, 1+rand.IntN(76), "\r\n"),
		} {
			got := written(t, s, "> "+printed+"\n")
			if !strings.Contains(got, "[REDACTED:KEY0]") {
				t.Fatalf("%q in %q was not found in %q", value, text, printed)
			}
			if left, off := len(got)-len("[REDACTED:KEY0]"), len(written(t, &Set{}, "> "+printed+"\n")); left > off-len(value) {
				t.Fatalf("%d bytes of %d are left: %q", left, off, got)
			}
		}
	}
}

func wrap(s string, n int, sep string) string {
	var lines []string
	for p := range slices.Chunk([]byte(s), n) {
		lines = append(lines, string(p))
	}
	return strings.Join(lines, sep)
}

// Case 45: values as programs print them.
func TestAsPrinted(t *testing.T) {
	const value = "s3cr3t-Token/42-and-more-of-it-to-fill-lines"
	s := newSet(t, value)
	dump := hex.Dump([]byte("password=" + value + "\n")) // as hexdump -C
	b64 := base64.StdEncoding.EncodeToString([]byte("user:" + value))
	for _, c := range []struct{ name, before, text, after, hidden string }{
		{"set -x", "+ curl -H 'Authorization: Bearer ", value, "' https://x\n", value},
		{"curl -v", "> Authorization: Basic ", b64, "\r\n> Accept: */*\r\n", b64[8:56]},
		{"DSN", "pq: cannot connect to postgres://app:", url.UserPassword("u", value).String()[2:], "@db/x?sslmode=disable: refused", "and-more-of-it"},
		{"Go trace", "goroutine 1 [running]:\nmain.login({0xc000012345, 0x2c}, \"", value, "\")\n\t/src/main.go:12 +0x1d\n", value},
		{"Java trace", "java.lang.IllegalStateException: bad token ", value, "\n\tat com.example.Login.run(Login.java:42)\n", value},
		{"colour", "\x1b[32m", value[:9] + "\x1b[1;31m" + value[9:], "\x1b[0m\n", value[9:]},
		{"link", "", value[:4] + "\x1b]8;;http://example.com\x1b\\" + value[4:], "\n", value[4:]},
		{"xxd", "", xxd("password=" + value), "\n", "6f72 653d"},
		{"xxd -p", "", wrap(hex.EncodeToString([]byte(value)), 60, "\n"), "\n", hex.EncodeToString([]byte(value))[:60]},
		{"od", "", od(value), "\n", "73 33 63 72"},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole := c.before + c.text + c.after
			got := written(t, s, whole)
			if !strings.Contains(got, "[REDACTED:KEY0]") || leaks(got, value) || c.name[0] != 'x' && leaks(got, c.hidden) {
				t.Errorf("%s", got)
			}
			if c.name != "xxd" && !leaks(whole, c.hidden) {
				t.Fatal("control: it is not in the text")
			}
			if got != written(t, s, strings.Split(whole, "")...) {
				t.Error("byte by byte, it differs")
			}
		})
	}
	// A dump shows its bytes twice: both are gone, also of the last line.
	for _, d := range []string{dump, xxd("password=" + value + " and what follows in the same dump")} {
		if !strings.Contains(d, "to-fill-") {
			t.Fatalf("control: %s", d)
		}
		for _, got := range []string{written(t, s, d+"next\n"), written(t, s, strings.Split(d+"next\n", "")...)} {
			if !strings.Contains(got, "[REDACTED:KEY0]") || leaks(got, value) || strings.Contains(got, "fill") || !strings.HasSuffix(got, "next\n") {
				t.Errorf("%s\nfrom\n%s", got, d)
			}
		}
	}
}

// decimal prints the bytes as Go does.
func decimal(s string) string { return strings.Trim(fmt.Sprintf("%d", []byte(s)), "[]") }

// xxd prints as the program of that name does.
func xxd(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i += 16 {
		line := s[i:min(i+16, len(s))]
		var groups []string
		for p := range slices.Chunk([]byte(line), 2) {
			groups = append(groups, hex.EncodeToString(p))
		}
		fmt.Fprintf(&b, "%08x: %-39s  %s\n", i, strings.Join(groups, " "), line)
	}
	return b.String()
}

// od prints as od -A o -t x1 does.
func od(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i += 16 {
		fmt.Fprintf(&b, "%07o % x\n", i, s[i:min(i+16, len(s))])
	}
	fmt.Fprintf(&b, "%07o\n", len(s))
	return b.String()
}

// Case 46: values that would take the log with them are refused.
func TestWeak(t *testing.T) {
	for _, value := range []string{"test", "{", "a", "", "true", "  test  \n", "aaaaaaaaaaaaaaaa", "password", "\n\n\n\n\n\n\n\n\n"} {
		s := &Set{}
		var refused *WeakError
		if err := s.Add("KEY", value, false); !errors.As(err, &refused) || refused.Name != "KEY" {
			t.Errorf("%q: %v", value, err)
		} else if value != "" && len(value) > 1 && strings.Contains(err.Error(), strings.TrimSpace(value)) && strings.TrimSpace(value) != "" {
			t.Errorf("the error tells the value: %v", err)
		}
		if err := s.Add("KEY", value, true); err != nil {
			t.Errorf("%q was accepted: %v", value, err)
		}
		if log := "a test { of password aaaaaaaaaaaaaaaaaa } true"; s.Redact(log) != log {
			t.Errorf("%q is searched for: %q", value, s.Redact(log))
		}
	}
}

const privateKey = `-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj
MzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuictGeurT8jNbvJZHtCSuYEvu
NMoSfm76oqFvAp8Gy0iz5sxjZmSnXyCdPEovGhLa0VzMaQ8s+CLOyS56YyCFGeJZ
-----END PRIVATE KEY-----
`

// Case 46: values of many lines and leaves, and values within values.
func TestParts(t *testing.T) {
	account, err := json.Marshal(map[string]any{
		"type": "x", "private_key": privateKey, "private_key_id": "0a1b2c3d4e5f60718293", "token_uri": "https://oauth2.googleapis.com/token",
	})
	if err != nil {
		t.Fatal(err)
	}
	s := newSet(t, string(account), "postgres://app:hunter2-and-3@db.example.com/app?sslmode=disable",
		"Basic "+base64.StdEncoding.EncodeToString([]byte("robot:beep-boop-1234")),
		"https://hooks.example.com/services/T0000/aZ19xWq82LmP",
		"machine api.example.com\nlogin me\npassword: \"Xy77-Qwer-0099\"\n")
	for _, c := range []struct{ text, want string }{
		{string(account), "[REDACTED:KEY0]"},
		{privateKey, "[REDACTED:KEY0]"},
		{"id 0a1b2c3d4e5f60718293.", "id [REDACTED:KEY0]."},
		{"> MzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuictGeurT8jNbvJZHtCSuYEvu", "> [REDACTED:KEY0]"},
		{"with hunter2-and-3 as", "with [REDACTED:KEY1] as"},
		{"as beep-boop-1234.", "as [REDACTED:KEY2]."},
		{"to https://hooks.example.com/services/T0000/aZ19xWq82LmP!", "to [REDACTED:KEY3]!"},
		{"with Xy77-Qwer-0099.", "with [REDACTED:KEY4]."},
		{ // and nothing that is no secret
			"{ } -----BEGIN PRIVATE KEY----- https://oauth2.googleapis.com/token type app db.example.com login",
			"{ } -----BEGIN PRIVATE KEY----- https://oauth2.googleapis.com/token type app db.example.com login",
		},
	} {
		if got := strings.TrimRight(s.Redact(c.text), "\n"); got != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}

// A value that is no text is found where it was made one: in an error, in JSON, in a log.
func TestBinaryAsText(t *testing.T) {
	const value = "\x00\xff\xfe\xfds3cr3t-\x80Tok\xc3/42\xff"
	s := newSet(t, value)
	asJSON, err := json.Marshal([]any{value, []byte(value), html.EscapeString(value)})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"as it is": value, "in an error": strings.ToValidUTF8("x "+value+" z", "\uFFFD"), "without what is no text": strings.ToValidUTF8(value, ""), "in JSON": string(asJSON),
		"as runes": fmt.Sprint(string([]rune(value))), "quoted": fmt.Sprintf("%q", value), "quoted after all": fmt.Sprintf("%q", strings.ToValidUTF8(value, "\uFFFD")),
	} {
		if got := s.Redact("a " + text + " z"); strings.Contains(got, "s3cr3t") || strings.Contains(got, "Tok") || !strings.Contains(got, "[REDACTED:KEY0]") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// Case 46: values that overlap, that are parts of one another, and of the marker.
func TestOverlaps(t *testing.T) {
	s := &Set{}
	add(t, s, "LONG", "ONE-Two-six-Ten")
	add(t, s, "INNER", "Two-six-T")
	add(t, s, "NEXT", "Ten-4y=u<i>o")
	add(t, s, "MARK", "REDACTED:")
	add(t, s, "ALL", "[REDACTED:LONG]")
	for _, c := range []struct{ text, want string }{
		{"x ONE-Two-six-Ten y", "x [REDACTED:LONG] y"},
		{"x ONE-Two-six-Tex y", "x ONE-[REDACTED:INNER]ex y"},
		{"ONE-Two-six-Ten-4y=u<i>o", "[REDACTED:LONG][REDACTED:NEXT]"},
		{"ONE-Two-six-TenONE-Two-six-Ten", "[REDACTED:LONG]"},
		{"ONE-Two-six-Ten ONE-Two-six-Ten", "[REDACTED:LONG] [REDACTED:LONG]"},
		{"[REDACTED:LONG]", "[REDACTED:ALL]"},
		{"[REDACTED:OTHER]", "[[REDACTED:MARK]OTHER]"},
		{strings.Repeat("REDACTED:", 1000), "[REDACTED:MARK]"},
	} {
		if got := written(t, s, c.text); got != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
		if got := written(t, s, strings.Split(c.text, "")...); got != c.want {
			t.Errorf("%q byte by byte: %q, want %q", c.text, got, c.want)
		}
	}
}

// Case 46: a value that repeats itself is found wherever its repetitions begin.
func TestPeriodic(t *testing.T) {
	value := strings.Repeat("abcd1234", 100) + "-the-tail-of-it"
	s := newSet(t, value)
	for _, n := range []int{0, 1, 7, 100, 1000} {
		text := strings.Repeat("abcd1234", n) + value
		want := strings.Repeat("abcd1234", n) + "[REDACTED:KEY0]"
		if got := written(t, s, text, "."); got != want+"." {
			t.Errorf("behind %d repetitions: %.100q … %.100q", n, got, got[max(0, len(got)-100):])
		}
		if got := written(t, s, wrap(text, 76, "\n"), "."); leaks(got, "-the-tail-of-it") {
			t.Errorf("behind %d repetitions, wrapped: %.100q", n, got)
		}
	}
}

// Case 47: values with bytes that mean something elsewhere, and names.
func TestOddValues(t *testing.T) {
	for _, value := range []string{
		`^(a+)+$.*[x]{1,9}\d`, "nul\x00in\x00the\x00middle", "not \xff\xfe utf8 \xc3", "two\nlines-of-it", "\x1b[31mred-and-more\x1b[0m",
		random(64 << 10), "\n::add-mask::x1y2z3",
	} {
		s := newSet(t, value)
		hidden := unbreak(value)
		got := written(t, s, "a "+value+" z\n")
		if got != "a [REDACTED:KEY0] z\n" && got != "a \n[REDACTED:KEY0] z\n" {
			t.Errorf("%.50q: %.200q", value, got)
		}
		if leaks(written(t, s, "a "+base64.StdEncoding.EncodeToString([]byte(value))), base64.RawStdEncoding.EncodeToString([]byte(hidden))[:8]) && hidden == value {
			t.Errorf("%.50q: in base64 it is not found", value)
		}
	}
	for _, name := range []string{"", "a b", "a]b", "a\nb", "é", "<a>", "a\x00"} {
		var refused *NameError
		if err := (&Set{}).Add(name, "s3cr3t-Token/42", true); !errors.As(err, &refused) || refused.Name != name {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func unbreak(s string) string { return string(unbroken(s)) }

// A key that is added while a stream is open is found in what comes next, and an
// old value of a name stays.
func TestAddedLater(t *testing.T) {
	s := &Set{}
	var b bytes.Buffer
	w := s.Writer(&b)
	write := func(text string) {
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	write("nothing yet, first-value-1\n")
	add(t, s, "KEY", "first-value-1")
	write("now first-value-1 and second-")
	add(t, s, "KEY", "second-value-2")
	add(t, s, "KEY", "second-value-2")
	write("value-2, first-value-1\nend")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// The begin of the second value was written before there was any.
	want := "nothing yet, first-value-1\nnow [REDACTED:KEY] and second-value-2, [REDACTED:KEY]\nend"
	want2 := "nothing yet, first-value-1\nnow [REDACTED:KEY] and second-[REDACTED:KEY], [REDACTED:KEY]\nend"
	want3 := "nothing yet, first-value-1\nnow [REDACTED:KEY] and [REDACTED:KEY], [REDACTED:KEY]\nend"
	if got := b.String(); got != want && got != want2 && got != want3 {
		t.Errorf("%q", got)
	}
}

// A writer holds back what may be the begin of a value, and no more; a pause lets go
// of less than 4 bytes.
func TestHeldBack(t *testing.T) {
	s := newSet(t, "s3cr3t-Token/42")
	for _, c := range []struct {
		text       string
		held, idle int
	}{
		{"hello, world", 0, 0}, {"Password: ", 0, 0}, {"his s3c", 3, 0}, {"his s3cr", 4, 4}, {"his s3c\r\n", 5, 0},
		{"s3cr3t-Toke", 11, 11}, {"s3cr3t-Token/42", 0, 0}, {"s3cr3t-Tokex", 0, 0}, {"in hex: 7333", 4, 0}, {"7", 1, 0}, {"8", 0, 0},
	} {
		w := s.Writer(&bytes.Buffer{})
		if _, err := w.Write([]byte(c.text)); err != nil {
			t.Fatal(err)
		}
		held := w.Held()
		if err := w.Idle(); err != nil {
			t.Fatal(err)
		}
		if held != c.held || w.Held() != c.idle {
			t.Errorf("%q: %d bytes are held, after a pause %d, want %d, %d", c.text, held, w.Held(), c.held, c.idle)
		}
	}
	var b bytes.Buffer
	w := s.Writer(&b)
	for _, text := range []string{"a s3c", "r3t-Token/4", "2 z"} {
		_, _ = w.Write([]byte(text))
		_ = w.Idle()
	}
	_ = w.Close()
	if got := b.String(); got != "a s3c[REDACTED:KEY0] z" {
		t.Errorf("%q", got)
	}
}

// The caller's writes stay what they are, as far as nothing is held back.
func TestWriteBoundaries(t *testing.T) {
	s := newSet(t, "s3cr3t-Token/42")
	var writes []string
	w := s.Writer(writerFunc(func(p []byte) { writes = append(writes, string(p)) }))
	for _, text := range []string{"one line.\n", "10%\r", "a s3cr3t-Tok", "en/42 b\n", "x"} {
		_, _ = w.Write([]byte(text))
	}
	if want := []string{"one line.\n", "10%\r", "a ", "[REDACTED:KEY0] b\n", "x"}; !slices.Equal(writes, want) {
		t.Errorf("%q", writes)
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// Case 49: texts that keep candidates going forever are read in bounded memory.
func TestHostile(t *testing.T) {
	long := random(32 << 10)
	values := []string{strings.Repeat("abcd1234", 1000) + "x", "s3cr3t-Token/42", long}
	s := newSet(t, values...)
	total := 4 * maxHeld
	for name, piece := range map[string]string{
		"period": "abcd1234", "period in lines": "abcd1234\n", "head": "s3cr3t-T", "begin": long[:2000], "breaks inside": "s\n3\nc\nr\n3\nt\n-\nT\n",
		"breaks": "\n", "zeros": "0", "digits": "deadbeef ", "escape": "\x1b", "string": "\x1b]", "colours": "s\x1b[0m3\x1b[0mc\x1b[0mr\x1b[0m3\x1b[0mt\x1b[0m-\x1b[0mT\x1b[0m",
		"dump": "00000000: 7333\n", "base64": base64.StdEncoding.EncodeToString([]byte(long[:600])), "no width": "\u200b", "lead": "\xe2",
	} {
		w := s.Writer(writerFunc(func([]byte) {}))
		most := 0
		if name == "breaks" || name == "string" {
			_, _ = w.Write([]byte("s3cr3t-Tok"))
		}
		piece = strings.Repeat(piece, 1+300/len(piece))
		for n := 0; n < total; n += len(piece) {
			_, _ = w.Write([]byte(piece))
			m := w.m
			most = max(most, len(w.held), len(m.bytes.marks)/4, len(m.plain.marks)/4, len(m.digits.marks)/4, 1000*len(m.hits), len(m.digits.maybe)*100)
			if most > 2*maxHeld {
				t.Fatalf("%s: it holds %d bytes, %d hits, %d marks", name, len(w.held), len(m.hits), len(m.bytes.marks))
			}
		}
		_ = w.Close()
	}
}

// Keys of one kind begin alike, and so does what everybody prints: that costs what one key does.
func TestOneKind(t *testing.T) {
	block := func(kind string, size int) string {
		der := append([]byte{0x30, 0x82, byte(size >> 8), byte(size)}, random(size)...)
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	account := func(key string) string {
		b, err := json.MarshalIndent(map[string]string{"type": "service_account", "private_key": key}, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	s, values := &Set{}, []string(nil)
	for i := range 12 {
		for _, value := range []string{block("PRIVATE KEY", 1200), block("CERTIFICATE", 600+i%3) + block("PRIVATE KEY", 300), account(block("PRIVATE KEY", 300))} {
			add(t, s, fmt.Sprint("KEY", len(values)), value)
			values = append(values, value)
		}
	}
	add(t, s, "LARGE", block("CERTIFICATE", 30_000))
	w := s.Writer(writerFunc(func([]byte) {}))
	write := func(text string) (most int) {
		for i := range len(text) {
			_, _ = w.Write([]byte{text[i]})
			most = max(most, len(w.m.bytes.active)+len(w.m.bytes.walks))
		}
		return most
	}
	for range 6 {
		text := block("CERTIFICATE", 600) + account("of another") + base64.StdEncoding.EncodeToString([]byte(block("PRIVATE KEY", 400)))
		if most := write(text); most > 30 {
			t.Fatalf("it compares with %d patterns at once", most)
		}
	}
	if made := s.expanded.Load(); made > maxExpanded/4 {
		t.Errorf("it made %d bytes of patterns for texts without a value", made)
	}
	for i, value := range values {
		if got := s.Redact("<" + value + ">"); got != fmt.Sprintf("<[REDACTED:KEY%d]>", i) && !strings.HasPrefix(got, fmt.Sprintf("<[REDACTED:KEY%d]", i)) {
			t.Fatalf("%q is left of %q", got, value)
		}
	}
}

// What passes, and is documented as such.
func TestPasses(t *testing.T) {
	const value = "s3cr3t-Token/42"
	s := newSet(t, value)
	reversed := []byte(value)
	slices.Reverse(reversed)
	for name, text := range map[string]string{
		"reversed":               string(reversed),
		"with spaces between":    strings.Join(strings.Split(value, ""), " "),
		"in two halves":          value[:8] + " and " + value[8:],
		"rot13":                  "f3pe3g-Gbxra/42",
		"base64 three times":     base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(value)))))),
		"upper case":             strings.ToUpper(value),
		"in half of its letters": value[:14],
		"quoted-printable, cut":  value[:9] + "=\r\n" + value[9:],
		"base64 of JSON":         base64.StdEncoding.EncodeToString([]byte(`{"k":"` + strings.ReplaceAll(value, "/", `\/`) + `"}`)),
		"hex in a title":         "\x1b]0;" + hex.EncodeToString([]byte(value)) + "\x07",
		"hex of base64":          hex.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(value)))),
	} {
		if got := written(t, s, text+"."); got != text+"." {
			t.Errorf("%s: it is redacted by now: say so in doc.go, and drop this case", name)
		}
	}
	// One character a line does not pass, since line breaks are not seen.
	if got := s.Redact(strings.Join(strings.Split(value, ""), "\n")); got != "[REDACTED:KEY0]" {
		t.Errorf("one character a line: %q", got)
	}
}

func TestShapes(t *testing.T) {
	for text, kind := range map[string]string{
		"id AKIAIOSFODNN7EXAMPLE ": "aws-access-key", "ghp_" + random(36): "github-token", "ghs_123456_eyJhbGciOi": "github-token",
		"github_pat_" + random(40): "github-token", "xoxb-123456789012-abc": "slack-token", "sk_live_" + random(24): "stripe-key",
		"-----BEGIN RSA PRIVATE KEY-----": "private-key", "x=eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF": "jwt",
		"postgres://u:longpassword@h/": "url-password", "glpat-" + random(20): "gitlab-token", "hvs." + random(30): "vault-token",
		"AIza" + random(35): "google-api-key", "npm_" + random(36): "npm-token", "https://hooks.slack.com/services/T0/B0/" + random(24): "slack-webhook",
		"sk-ant-api03-" + random(30): "anthropic-key", "sk-proj-" + random(30): "openai-key",
	} {
		if got := Shapes([]byte("a " + text + " z")); !slices.Equal(got, []string{kind}) {
			t.Errorf("%q: %q, want %s", text, got, kind)
		}
	}
	plain := "the run ended: https://example.com:8080/a@b, postgres://[REDACTED:DSN]@db, sk_live, eyJ, -----BEGIN CERTIFICATE-----, git@github.com:a/b"
	if got := Shapes([]byte(plain)); got != nil {
		t.Errorf("%q", got)
	}
}
