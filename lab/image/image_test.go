package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSaveProgram: a static program is packed, and one that needs a dynamic linker is refused, since it would not start.
func TestSaveProgram(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ name, linker, want string }{
		{"static", "", ""},
		{"dynamic", "/lib64/ld-linux-x86-64.so.2", "it is not static: it needs /lib64/ld-linux-x86-64.so.2 and libraries"},
	} {
		t.Run(test.name, func(t *testing.T) {
			program, tar := filepath.Join(dir, test.name), filepath.Join(dir, test.name+".tar")
			if err := os.WriteFile(program, elfOf(t, test.linker), 0o755); err != nil {
				t.Fatal(err)
			}
			err := SaveProgram(tar, "example.org/a:1", program, "/bin/a")
			if _, none := os.Stat(tar); (err == nil) != (test.want == "") || (none == nil) != (err == nil) ||
				err != nil && !strings.HasSuffix(err.Error(), test.want) {
				t.Errorf("got %v, and the tar: %v; want %q", err, none, test.want)
			}
		})
	}
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/a\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := SaveProgram(script+".tar", "example.org/a:1", script, "/bin/a"); err != nil {
		t.Errorf("what is no binary: %v", err)
	}
}

// elfOf is the head of a program that names a dynamic linker, or none.
func elfOf(t *testing.T, linker string) []byte {
	t.Helper()
	const headers, entry = 64, 56 // bytes: of the ELF header, and of one program header
	kind := elf.PT_LOAD
	if linker != "" {
		kind = elf.PT_INTERP
	}
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phoff: headers, Ehsize: headers, Phentsize: entry, Phnum: 1,
	}
	text := append([]byte(linker), 0)
	prog := elf.Prog64{Type: uint32(kind), Off: headers + entry, Filesz: uint64(len(text)), Memsz: uint64(len(text))}
	var out bytes.Buffer
	for _, part := range []any{head, prog, text} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}
