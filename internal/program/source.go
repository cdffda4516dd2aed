package program

import (
	"debug/buildinfo"
	"debug/elf"
	"debug/gosym"
	"path/filepath"
	"strings"
)

// identity is what the Go linker recorded in a program about its own making.
type identity struct {
	*buildinfo.BuildInfo
	buildID string // four parts, the middle two name the compiled main package
	mainDir string // directory of func main's source, if it is still a real path
}

func identify(path string) (identity, error) {
	bi, err := buildinfo.ReadFile(path)
	if err != nil {
		return identity{}, err
	}
	id := identity{BuildInfo: bi}
	// Only ELF files carry these two in a known place. Without them, the
	// working directory is where sources are looked for.
	f, err := elf.Open(path)
	if err != nil {
		return id, nil
	}
	defer f.Close()
	id.buildID = goBuildID(f)
	id.mainDir = mainDir(f)
	return id, nil
}

func (id identity) setting(key string) string {
	for _, s := range id.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// goBuildID reads the note that cmd/go stamps into each program.
func goBuildID(f *elf.File) string {
	s := f.Section(".note.go.buildid")
	if s == nil {
		return ""
	}
	b, err := s.Data()
	if err != nil || len(b) < 16 {
		return ""
	}
	// namesz, descsz, type, "Go\0\0", desc
	size := int(f.ByteOrder.Uint32(b[4:]))
	if size > len(b)-16 {
		return ""
	}
	return string(b[16 : 16+size])
}

// mainDir asks the program's own line table where main.main was written.
func mainDir(f *elf.File) string {
	text, lines := f.Section(".text"), f.Section(".gopclntab")
	if text == nil {
		return ""
	}
	if lines == nil { // position independent programs
		lines = f.Section(".data.rel.ro.gopclntab")
	}
	if lines == nil {
		return ""
	}
	data, err := lines.Data()
	if err != nil {
		return ""
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, text.Addr))
	if err != nil {
		return ""
	}
	fn := table.LookupFunc("main.main")
	if fn == nil {
		return ""
	}
	file, _, _ := table.PCToLine(fn.Entry)
	if !filepath.IsAbs(file) { // built with -trimpath
		return ""
	}
	return filepath.Dir(file)
}

// mainPackageID is the part of a build ID that names the compiled main package,
// and with it, by hash, all that the package imports.
func mainPackageID(buildID string) string {
	parts := strings.Split(buildID, "/")
	if len(parts) != 4 {
		return ""
	}
	return parts[1] + "/" + parts[2]
}
