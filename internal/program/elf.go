package program

import (
	"bytes"
	"debug/elf"
	"io"
)

// Interpreters are short paths; what is longer is no loader but a broken file.
const maxLoader = 4096

// inspect reads what a program's ELF header says about where it can run.
func inspect(path string) (Program, error) {
	f, err := elf.Open(path)
	if err != nil {
		return Program{}, &Error{Program: path, Reason: "is no Linux program", Err: err}
	}
	defer f.Close()
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return Program{}, &Error{Program: path, Reason: "is an ELF file, but no program"}
	}
	p := Program{Path: path, Arch: goarch(f)}
	if p.Arch == "" {
		return Program{}, &Error{Program: path, Reason: "is built for an unsupported machine, " + f.Machine.String()}
	}
	for _, h := range f.Progs {
		if h.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(h.Open(), maxLoader))
		if err != nil {
			return Program{}, &Error{Program: path, Reason: "has an unreadable loader name", Err: err}
		}
		p.Loader = string(bytes.TrimRight(b, "\x00"))
	}
	return p, nil
}

func goarch(f *elf.File) string {
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64"
	case elf.EM_AARCH64:
		return "arm64"
	case elf.EM_ARM:
		return "arm"
	case elf.EM_386:
		return "386"
	case elf.EM_RISCV:
		return "riscv64"
	case elf.EM_S390:
		return "s390x"
	case elf.EM_PPC64:
		if f.Data == elf.ELFDATA2LSB {
			return "ppc64le"
		}
		return "ppc64"
	case elf.EM_LOONGARCH:
		return "loong64"
	}
	return ""
}
