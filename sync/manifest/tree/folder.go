package tree

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Folder is the tree of a folder on disk. Nothing in it makes the walk wait: pipes and devices are neither opened nor
// read.
type Folder struct {
	// Path is the folder's real path: without symbolic links in it.
	Path string
	// Visit, where it is set, is called with every directory before it is listed.
	Visit func(path string)
	// Vanished is set once a directory was gone when its turn came.
	Vanished bool
}

// Top implements Tree.
func (f *Folder) Top() Entry { return Entry{Kind: Dir} }

// On is where something of the tree is on disk.
func (f *Folder) On(name string) string { return filepath.Join(f.Path, filepath.FromSlash(name)) }

// List implements Tree.
func (f *Folder) List(dir string, _ Entry) ([]Entry, error) {
	on := f.On(dir)
	if f.Visit != nil {
		f.Visit(on)
	}
	listed, err := os.ReadDir(on)
	if errors.Is(err, fs.ErrNotExist) && dir != "" {
		f.Vanished = true
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(listed))
	for i, e := range listed {
		entries[i] = Entry{Name: e.Name(), Kind: kindOf(e.Type())}
	}
	return entries, nil
}

// Find implements Tree.
func (f *Folder) Find(dir string, _ Entry, name string) (Entry, error) {
	info, err := os.Lstat(filepath.Join(f.On(dir), name))
	if err != nil {
		return Entry{}, err
	}
	return Entry{Name: name, Kind: kindOf(info.Mode())}, nil
}

// Target implements Tree.
func (f *Folder) Target(name string, _ Entry) (string, error) { return os.Readlink(f.On(name)) }

// Inside implements Tree.
func (f *Folder) Inside(absolute string) (string, bool) {
	for _, at := range []func(string) (string, error){unchanged, filepath.EvalSymlinks} {
		real, err := at(absolute)
		if err != nil {
			return "", false
		}
		rel, err := filepath.Rel(f.Path, real)
		if err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return filepath.ToSlash(rel), true
		}
	}
	return "", false
}

func unchanged(path string) (string, error) { return path, nil }

func kindOf(mode fs.FileMode) Kind {
	switch {
	case mode.IsRegular():
		return File
	case mode.IsDir():
		return Dir
	case mode&fs.ModeSymlink != 0:
		return Link
	}
	return Other
}

// ErrNotRegular: what is at a path is not, or no longer, a regular file.
var ErrNotRegular = errors.New("it is not a regular file")

// Open opens a regular file, without waiting for the other end of what has become a pipe.
func Open(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = ErrNotRegular
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Read returns a regular file's content, at most one byte more than the limit.
func Read(path string, limit int64) ([]byte, error) {
	file, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, limit+1))
}
