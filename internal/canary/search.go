package canary

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"mime/quotedprintable"
	"net/url"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A Needle is a piece of a value as one encoding shows it.
type Needle struct {
	Of, Encoding string // the value's name, and how it is written
	b            []byte
}

// encodings are the ways to write something down that the search knows, on its own: none of it
// is what redaction uses.
var encodings = map[string]func(string) string{
	"plain":                    func(s string) string { return s },
	"base64":                   func(s string) string { return symbols(base64.StdEncoding.EncodeToString, 6, 0, s) },
	"base64, 1 before":         func(s string) string { return symbols(base64.StdEncoding.EncodeToString, 6, 1, s) },
	"base64, 2 before":         func(s string) string { return symbols(base64.StdEncoding.EncodeToString, 6, 2, s) },
	"base64 of URLs":           func(s string) string { return symbols(base64.URLEncoding.EncodeToString, 6, 0, s) },
	"base64 of URLs, 1 before": func(s string) string { return symbols(base64.URLEncoding.EncodeToString, 6, 1, s) },
	"base64 of URLs, 2 before": func(s string) string { return symbols(base64.URLEncoding.EncodeToString, 6, 2, s) },
	"base32":                   func(s string) string { return symbols(base32.StdEncoding.EncodeToString, 5, 0, s) },
	"hex":                      func(s string) string { return hex.EncodeToString([]byte(s)) },
	"HEX":                      func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) },
	"hex of UTF-16":            func(s string) string { return hex.EncodeToString([]byte(wide(s))) },
	"UTF-16":                   wide,
	"query":                    url.QueryEscape,
	"path":                     url.PathEscape,
	"JSON":                     inJSON,
	"JSON of others": func(s string) string {
		return strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(inJSON(s))
	},
	"JSON in JSON":     func(s string) string { return inJSON(inJSON(s)) },
	"HTML":             html.EscapeString,
	"quoted":           func(s string) string { q := fmt.Sprintf("%+q", s); return q[1 : len(q)-1] },
	"quoted-printable": quotedPrintable,
	"octal":            octal,
	"decimal":          func(s string) string { return strings.Trim(fmt.Sprintf("%d", []byte(s)), "[]") },
	"reversed":         func(s string) string { r := []rune(s); slices.Reverse(r); return string(r) },
}

// symbols returns those of an encoding, of so many bits each, that depend on s alone, where
// so many bytes stand before it.
func symbols(encode func([]byte) string, bits, before int, s string) string {
	all := encode(append(make([]byte, before), s...))
	return all[(before*8+bits-1)/bits : (before+len(s))*8/bits]
}

func wide(s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return string(b)
}

func inJSON(s string) string {
	b, _ := json.Marshal(s) // a string can be
	return string(b[1 : len(b)-1])
}

func quotedPrintable(s string) string {
	var b strings.Builder
	w := quotedprintable.NewWriter(&b)
	_, _ = io.WriteString(w, s) // a Builder takes all
	_ = w.Close()
	return b.String()
}

// octal is how Postgres can print bytes.
func octal(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// pieces are the begin and the end of a value: half of it is a leak, too.
func pieces(value string) []string {
	const size = 12
	r := []rune(value)
	if !utf8.ValidString(value) || len(r) < 2*size {
		return []string{value}
	}
	return []string{string(r[:size]), string(r[len(r)-size:])}
}

// A Searcher looks for all needles at once.
type Searcher struct {
	at    map[uint32][]Needle // by their first bytes
	first []uint64            // a bit for a hash of them
	most  int                 // bytes of the longest
}

// NewSearcher returns one for values with their secret parts, by name.
func NewSearcher(values map[string][]string) *Searcher {
	s := &Searcher{at: make(map[uint32][]Needle), first: make([]uint64, 1<<14)}
	for name, parts := range values {
		for _, part := range parts {
			for _, piece := range pieces(part) {
				for encoding, encode := range encodings {
					b := []byte(encode(piece))
					k := binary.LittleEndian.Uint32(b)
					s.at[k] = append(s.at[k], Needle{name, encoding, b})
					s.first[bit(k)>>6] |= 1 << (bit(k) & 63)
					s.most = max(s.most, len(b))
				}
			}
		}
	}
	return s
}

func bit(k uint32) uint32 { return k * 0x9E3779B1 >> 12 }

// next returns from where on data may have a needle. The race detector need not look at each
// byte of a worker's memory.
//
//go:norace
func (s *Searcher) next(data []byte, i int) int {
	if i+4 > len(data) {
		return -1
	}
	first := s.first[:1<<14]
	k := uint32(data[i])<<8 | uint32(data[i+1])<<16 | uint32(data[i+2])<<24
	for j, b := range data[i+3:] {
		k = k>>8 | uint32(b)<<24
		if h := k * 0x9E3779B1 >> 12; first[h>>6&(1<<14-1)]>>(h&63)&1 != 0 {
			return i + j
		}
	}
	return -1
}

// search calls hit for each needle in data.
func (s *Searcher) search(data []byte, hit func(Needle, int)) {
	for i := s.next(data, 0); i >= 0; i = s.next(data, i+1) {
		for _, n := range s.at[binary.LittleEndian.Uint32(data[i:])] {
			if bytes.HasPrefix(data[i:], n.b) {
				hit(n, i)
			}
		}
	}
}

// Window is how much of a file is looked at, at a time.
const Window = 1 << 20

// Read searches what r has, however large.
func (s *Searcher) Read(r io.Reader, hit func(n Needle, around []byte)) error {
	buf, held := make([]byte, Window), 0
	for {
		n, err := io.ReadFull(r, buf[held:])
		data := buf[:held+n]
		s.search(data, func(n Needle, i int) { hit(n, data[max(0, i-100):min(len(data), i+len(n.b)+40)]) })
		if err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				err = nil
			}
			return err
		}
		held = copy(buf, data[len(data)-s.most:])
	}
}
