// Package image packs programs into container images without any registry or builder.
package image

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// File is one regular file of an image; directories above it are made.
type File struct {
	Path string // absolute, in the image
	Data []byte
	Mode int64 // zero: 0755
}

// Link is one symbolic link of an image.
type Link struct{ Path, Target string }

// Image says what to pack.
type Image struct {
	Files      []File
	Links      []Link
	Entrypoint []string
	Cmd        []string
	Env        []string // PATH is set where it does not name it
	User       string
	StopSignal string
	// Arch is Go's name of the processor architecture; empty: amd64.
	Arch string
}

// Program reads a program from disk as a file of an image.
func Program(from, to string) (File, error) {
	data, err := os.ReadFile(from)
	if err != nil {
		return File{}, fmt.Errorf("cannot pack %s: %w", from, err)
	}
	return File{Path: to, Data: data}, nil
}

// interpreter is the dynamic linker that a program names; empty: it is static, or no such program.
func interpreter(program []byte) string {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return ""
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name, err := io.ReadAll(p.Open())
			if err != nil {
				return "a dynamic linker"
			}
			return strings.TrimRight(string(name), "\x00")
		}
	}
	return ""
}

// SaveProgram writes a tar with an image of one static program of this machine's architecture, which is in it by the entry point's
// first word. A program that is linked to libraries would not start there, and is refused.
func SaveProgram(tar, name, program string, entrypoint ...string) error {
	file, err := Program(program, entrypoint[0])
	if err != nil {
		return err
	}
	if linker := interpreter(file.Data); linker != "" {
		return fmt.Errorf("cannot pack %s: it is not static: it needs %s and libraries", program, linker)
	}
	return Image{Files: []File{file}, Entrypoint: entrypoint, Arch: runtime.GOARCH}.Save(tar, name)
}

// Build makes the image. The same input gives the same digest.
func (i Image) Build() (v1.Image, error) {
	raw, err := i.layer()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
	if err != nil {
		return nil, fmt.Errorf("cannot make an image layer: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("cannot make an image: %w", err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("cannot make an image: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", i.Arch
	if file.Architecture == "" {
		file.Architecture = "amd64"
	}
	file.Config.Entrypoint, file.Config.Cmd, file.Config.User = i.Entrypoint, i.Cmd, i.User
	file.Config.StopSignal = i.StopSignal
	file.Config.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, i.Env...)
	return mutate.ConfigFile(img, file)
}

// Save writes the image to a docker-style tar under each of the names.
func (i Image) Save(file string, names ...string) error {
	img, err := i.Build()
	if err != nil {
		return err
	}
	tags := map[name.Tag]v1.Image{}
	for _, n := range names {
		tag, err := name.NewTag(n)
		if err != nil {
			return fmt.Errorf("cannot name an image %q: %w", n, err)
		}
		tags[tag] = img
	}
	if err := tarball.MultiWriteToFile(file, tags); err != nil {
		return fmt.Errorf("cannot write image %s: %w", file, err)
	}
	return nil
}

func (i Image) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	dirs := map[string]bool{"/tmp": true, "/etc": true, "/proc": true, "/sys": true, "/dev": true}
	for _, f := range i.Files {
		addParents(dirs, f.Path)
	}
	for _, l := range i.Links {
		addParents(dirs, l.Path)
	}
	var sorted []string
	for d := range dirs {
		sorted = append(sorted, d)
	}
	sort.Strings(sorted)
	for _, d := range sorted {
		mode := int64(0o755)
		if d == "/tmp" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d[1:] + "/", Mode: mode}); err != nil {
			return nil, fmt.Errorf("cannot pack %s: %w", d, err)
		}
	}
	for _, f := range i.Files {
		mode := f.Mode
		if mode == 0 {
			mode = 0o755
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.Path[1:], Mode: mode, Size: int64(len(f.Data))}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("cannot pack %s: %w", f.Path, err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("cannot pack %s: %w", f.Path, err)
		}
	}
	for _, l := range i.Links {
		header := &tar.Header{Typeflag: tar.TypeSymlink, Name: l.Path[1:], Linkname: l.Target, Mode: 0o777}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("cannot pack %s: %w", l.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("cannot pack an image: %w", err)
	}
	return out.Bytes(), nil
}

func addParents(dirs map[string]bool, file string) {
	for d := path.Dir(file); d != "/" && d != "."; d = path.Dir(d) {
		dirs[d] = true
	}
}
