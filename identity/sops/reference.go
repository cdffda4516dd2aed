package sops

import (
	"path"
	"strings"
)

// A target is what a reference means for a tenant.
type target struct {
	file   string   // below Config.Dir
	format string   // as the program calls it
	keys   []string // none: the whole file
}

var formats = map[string]string{".yaml": "yaml", ".yml": "yaml", ".json": "json", ".env": "dotenv", ".ini": "ini"}

// find has one spelling for each secret: ASCII letters, digits, "_", "-" and, but not
// in front, "." in files.
func find(tenant, reference string) (target, bool) {
	file, key, hasKey := strings.Cut(reference, "#")
	if len(reference) > 512 || strings.Contains(tenant, "/") {
		return target{}, false
	}
	for part := range strings.SplitSeq(tenant+"/"+file, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".") || strings.ContainsFunc(strings.ReplaceAll(part, ".", ""), odd) {
			return target{}, false
		}
	}
	t := target{file: tenant + "/" + file, format: formats[path.Ext(file)]}
	if t.format == "" {
		t.format = "binary"
	}
	if hasKey != (t.format != "binary") {
		return target{}, false
	}
	if hasKey {
		t.keys = strings.Split(key, ".")
	}
	for _, k := range t.keys {
		if k == "" || strings.ContainsFunc(k, odd) {
			return target{}, false
		}
	}
	return t, true
}

func odd(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
}
