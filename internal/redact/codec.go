package redact

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// A codec is one way in which a part may be printed.
type codec struct {
	class  string
	bits   bool                     // what it makes of a character depends on where that stands
	encode func(part string) []byte // without line breaks, as the views are
}

// digits are the symbols of the view of digits.
var digits = &codec{class: digitClass, encode: nibbles}

// unsure is how many symbols at the end of a begin the rest of the part may change.
const unsure = 16

// begin returns n symbols or more that part's encoding begins with, or the whole of it.
func (c *codec) begin(part string, n int) (symbols []byte, whole bool) {
	if cut := n + n/4 + 4*unsure; cut < len(part) {
		for i := range min(utf8.UTFMax, cut) {
			if utf8.RuneStart(part[cut-i]) {
				cut -= i
				break
			}
		}
		if symbols = c.encode(part[:cut]); len(symbols) >= n+unsure {
			return symbols[:len(symbols)-unsure], false
		}
	}
	return c.encode(part), true
}

// kind returns what is the same for two codecs only if they encode part alike. each is
// what each returns of it.
func (c *codec) kind(part, each string) string {
	if c.bits || len(part) <= 1<<10 {
		return string(c.encode(part))
	}
	if symbols := c.encode(each); len(symbols) > 0 {
		return "each " + string(symbols)
	}
	return ""
}

// each returns the characters of part, each once: most codecs make the same of one wherever it stands.
func each(part string) string {
	var b strings.Builder
	seen := map[string]bool{}
	for rest := part; rest != ""; {
		_, n := utf8.DecodeRuneInString(rest)
		if r := rest[:n]; !seen[r] {
			seen[r] = true
			b.WriteString(r + "x") // bytes that are none by themselves make none together
		}
		rest = rest[n:]
	}
	return b.String()
}

// codecs are tried in this order, and what two of them print alike is the first one's.
var codecs = sync.OnceValue(func() (all []*codec) {
	type form = func(string) string
	add := func(class string, forms ...form) {
		for _, f := range forms {
			all = append(all, &codec{class: class, encode: func(part string) []byte { return unbroken(f(part)) }})
		}
	}
	bits := func(class string, forms ...form) {
		for _, f := range forms {
			all = append(all, &codec{class: class, bits: true, encode: func(part string) []byte { return []byte(f(part)) }})
		}
	}
	// What escapes may be escaped again: JSON in JSON, a redirect in a query.
	twice := func(class string, again form, forms ...form) {
		for _, f := range forms {
			add(class, f, func(s string) string { return again(f(s)) })
		}
	}
	add("raw", func(s string) string { return s })

	plain, slashes := marshal(false), strings.NewReplacer("/", `\/`)
	for _, again := range []form{plain, marshal(true)} {
		twice("json", again, plain, marshal(true), func(s string) string { return slashes.Replace(plain(s)) },
			unicode(utf8.RuneSelf, lowerDigits), unicode(utf8.RuneSelf, upperDigits), unicode(0, lowerDigits), unicode(0, upperDigits))
	}
	twice("quoted", inner(strconv.Quote), inner(strconv.Quote), inner(strconv.QuoteToASCII))

	escaped := regexp.MustCompile(`%[0-9A-F]{2}`)
	special := regexp.MustCompile(`[^\w./:=@%+,\n-]`) // as bash's printf %q sees it
	lower := func(s string) string { return escaped.ReplaceAllStringFunc(s, strings.ToLower) }
	for _, f := range []form{url.QueryEscape, url.PathEscape, percent("-._~"), percent("-._~!*'()"), userinfo} {
		twice("url", f, f)
		twice("url", func(s string) string { return lower(f(s)) }, func(s string) string { return lower(f(s)) })
	}

	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for lead := range 3 {
			bits("base64", core(6, lead, e.EncodeToString))
		}
	}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for lead := range 3 {
			for _, again := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				for more := range 3 {
					once, second := core(6, lead, e.EncodeToString), core(6, more, again.EncodeToString)
					bits("base64 twice", func(s string) string { return second(once(s)) })
				}
			}
		}
	}
	for lead := range 5 {
		upper := core(5, lead, base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString)
		bits("base32", upper, func(s string) string { return strings.ToLower(upper(s)) })
	}

	add("xml", html.EscapeString, func(s string) string {
		var b strings.Builder
		_ = xml.EscapeText(&b, []byte(s)) // a Builder takes all
		return b.String()
	}, replace("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;"),
		replace("&", "&amp;", "<", "&lt;", ">", "&gt;"))
	add("shell",
		replace("'", `'\''`), replace("'", `'"'"'`),
		replace(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`"),
		replace(`\`, `\\`, "'", `\'`, "\n", `\n`, "\t", `\t`, "\r", `\r`, "\x1b", `\E`), // $'…'
		func(s string) string { return special.ReplaceAllString(s, `\$0`) })
	add("powershell", replace("'", "''"), replace("`", "``", `"`, "`\"", "$", "`$"), replace(`"`, `""`))
	add("utf16", wide(binary.LittleEndian), wide(binary.BigEndian))
	for lead := range 3 { // powershell -EncodedCommand
		little, once := wide(binary.LittleEndian), core(6, lead, base64.RawStdEncoding.EncodeToString)
		bits("base64", func(s string) string { return once(little(s)) })
	}
	add("octal", bytewise(`\%03o`))
	add("xml", bytewise("&#%d;"))
	add("quoted-printable", func(s string) string { return strings.ReplaceAll(s, "=", "=3D") })
	add("bytes", decimals(" "), decimals(","), decimals(", "))
	return all
})

const (
	lowerDigits = "0123456789abcdef"
	upperDigits = "0123456789ABCDEF"
)

func writeDigits(b *strings.Builder, digits string, value uint16, n int) {
	for n--; n >= 0; n-- {
		b.WriteByte(digits[value>>(4*n)&15])
	}
}

// unbroken returns s without line breaks.
func unbroken(s string) []byte {
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] != '\n' && s[i] != '\r' {
			b = append(b, s[i])
		}
	}
	return b
}

// core returns an encoding whose symbols hold width bits each, of a text that lead
// bytes stand before: those of its symbols that depend on the text alone.
func core(width, lead int, encode func([]byte) string) func(string) string {
	return func(s string) string {
		if s == "" {
			return ""
		}
		symbols := encode(append(make([]byte, lead, lead+len(s)), s...))
		return symbols[(lead*8+width-1)/width : (lead+len(s))*8/width]
	}
}

func inner(quote func(string) string) func(string) string {
	return func(s string) string {
		q := quote(s)
		return q[1 : len(q)-1]
	}
}

func replace(pairs ...string) func(string) string { return strings.NewReplacer(pairs...).Replace }

func marshal(escapeHTML bool) func(string) string {
	return inner(func(s string) string {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(escapeHTML)
		_ = e.Encode(s) // a string can be encoded
		return strings.TrimSuffix(b.String(), "\n")
	})
}

// unicode writes each rune from the given one on as \uXXXX, and what JSON must escape.
func unicode(from rune, digits string) func(string) string {
	plain := marshal(false)
	return func(s string) string {
		if from > 0 {
			s = plain(s)
		}
		var b strings.Builder
		for _, r := range s {
			if r < from {
				b.WriteRune(r)
				continue
			}
			high, low := utf16.EncodeRune(r)
			if high != utf8.RuneError {
				b.WriteString(`\u`)
				writeDigits(&b, digits, uint16(high), 4)
				r = low
			}
			b.WriteString(`\u`)
			writeDigits(&b, digits, uint16(r), 4)
		}
		return b.String()
	}
}

// percent escapes all but letters, digits and what is named.
func percent(kept string) func(string) string {
	return func(s string) string {
		var b strings.Builder
		for i := range len(s) {
			c := s[i]
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(kept, c) >= 0 {
				b.WriteByte(c)
			} else {
				b.WriteByte('%')
				writeDigits(&b, upperDigits, uint16(c), 2)
			}
		}
		return b.String()
	}
}

func userinfo(s string) string { return url.User(s).String() }

func wide(order binary.ByteOrder) func(string) string {
	return func(s string) string {
		if !utf8.ValidString(s) {
			return ""
		}
		var b []byte
		for _, unit := range utf16.Encode([]rune(s)) {
			b = append(b, 0, 0)
			order.PutUint16(b[len(b)-2:], unit)
		}
		return string(b)
	}
}

func bytewise(format string) func(string) string {
	return func(s string) string {
		var b []byte
		for i := range len(s) {
			b = fmt.Appendf(b, format, s[i])
		}
		return string(b)
	}
}

// decimals is how languages print a slice of bytes.
func decimals(between string) func(string) string {
	return func(s string) string {
		var b []byte
		for i := range len(s) {
			if i > 0 {
				b = append(b, between...)
			}
			b = strconv.AppendUint(b, uint64(s[i]), 10)
		}
		return string(b)
	}
}

// nibbles returns the values of the hexadecimal digits of s.
func nibbles(s string) []byte {
	b := make([]byte, 0, 2*len(s))
	for i := range len(s) {
		b = append(b, s[i]>>4, s[i]&15)
	}
	return b
}
