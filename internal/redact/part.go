package redact

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxParts is how many parts of one value are searched for on their own.
const maxParts = 512

// parts returns what of value is secret on its own, value first: what is left
// without space and quotes around it, lines, what stands right of a name, the
// leaves of a JSON document, what a URL or a connection string authenticates with.
// What is no UTF-8 is a part as well in the forms that it gets where text has to be: in JSON,
// in an error. Parts that say little, and such as stand in public texts, are left out.
func parts(value string) []string {
	p := &partition{found: []string{value}, seen: map[string]bool{value: true}}
	p.within(value)
	return p.found
}

type partition struct {
	found []string
	seen  map[string]bool
}

func (p *partition) add(part string) {
	if len(p.found) == maxParts || p.seen[part] || weak(part) || public(part) {
		return
	}
	p.seen[part] = true
	p.found = append(p.found, part)
	p.within(part)
}

func (p *partition) within(part string) {
	trimmed := strings.TrimSpace(part)
	p.add(trimmed)
	if !utf8.ValidString(part) {
		p.add(string([]rune(part))) // a mark for each byte that is none
		p.add(strings.ToValidUTF8(part, string(utf8.RuneError)))
		p.add(strings.ToValidUTF8(part, ""))
	}
	if n := len(trimmed); n > 2 && trimmed[0] == trimmed[n-1] && strings.ContainsRune("\"'`", rune(trimmed[0])) {
		p.add(trimmed[1 : n-1])
	}
	var document any
	if strings.HasPrefix(trimmed, "{") || strings.HasPrefix(trimmed, "[") {
		if json.Unmarshal([]byte(trimmed), &document) == nil {
			p.leaves(document)
			return
		}
	}
	if lines := strings.FieldsFunc(part, func(r rune) bool { return r == '\n' || r == '\r' }); len(lines) > 1 {
		for _, line := range lines {
			p.add(strings.TrimSpace(line))
		}
		return
	}
	// A line: "key: value", KEY=value, "- item", "Bearer token".
	for _, sign := range []string{": ", "=", "- "} {
		if left, right, ok := strings.Cut(trimmed, sign); ok && !strings.ContainsAny(left, " \t/?&@") {
			p.add(strings.TrimSpace(right))
		}
	}
	if scheme, token, ok := strings.Cut(trimmed, " "); ok {
		switch strings.ToLower(scheme) {
		case "bearer", "token":
			p.add(token)
		case "basic":
			p.add(token)
			if pair, err := base64.StdEncoding.DecodeString(token); err == nil {
				p.add(string(pair))
				_, password, _ := strings.Cut(string(pair), ":")
				p.add(password)
			}
		}
		for _, field := range strings.Fields(trimmed) { // host=… password=…
			if name, setting, ok := strings.Cut(field, "="); ok && strings.HasPrefix(strings.ToLower(name), "pass") {
				p.add(strings.Trim(setting, `'"`))
			}
		}
	}
	if u, err := url.Parse(trimmed); err == nil && u.Scheme != "" && u.Host != "" {
		if password, ok := u.User.Password(); ok {
			p.add(password)
		} else {
			p.add(u.User.Username())
		}
		for _, values := range u.Query() {
			for _, v := range values {
				p.add(v)
			}
		}
	}
}

func (p *partition) leaves(document any) {
	switch d := document.(type) {
	case string:
		p.add(d)
	case []any:
		for _, e := range d {
			p.leaves(e)
		}
	case map[string]any:
		for _, e := range d {
			p.leaves(e)
		}
	}
}

// public reports a part as it stands in texts of anybody: the first and last line
// of a PEM block, an address of short words without credentials.
func public(part string) bool {
	if strings.HasPrefix(part, "-----") && strings.HasSuffix(part, "-----") && !strings.Contains(part, "\n") {
		return true
	}
	u, err := url.Parse(part)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	return !slices.ContainsFunc(strings.Split(u.Path, "/"), func(word string) bool { return len(word) >= minLength })
}
