package source

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// racy is how close before its reading a file may have been written for a later write to leave the same time stamp:
// the kernel's clock for time stamps ticks every 4 to 10 ms.
const racy = 20 * time.Millisecond

// known is what a file looked like when its content was last hashed.
type known struct {
	size  int64
	mtime time.Time
	inode uint64
	hash  string
	racy  bool // may have changed since without showing
}

// scan is one walk over a folder.
type scan struct {
	top    string // real path of the folder
	now    time.Time
	known  map[string]known
	files  map[string]known // by slash-separated path from top
	dir    func(path string, inode uint64)
	stable bool

	problems []Problem
}

// walk reads a directory and all below it. Hidden directories (".git") and what vanishes meanwhile are left out.
func (s *scan) walk(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && path != root {
				s.stable = false
				return nil
			}
			return err
		}
		switch {
		case e.IsDir():
			if path != root && strings.HasPrefix(e.Name(), ".") {
				return filepath.SkipDir
			}
			info, err := e.Info()
			if err == nil {
				s.dir(path, inodeOf(info))
			}
			return nil
		case e.Type()&fs.ModeSymlink != 0:
			return s.link(path, e.Name())
		case e.Type().IsRegular() && manifest(e.Name()):
			info, err := e.Info()
			if err != nil {
				s.stable = false
				return nil
			}
			return s.file(path, info)
		}
		return nil
	})
}

func (s *scan) link(path, name string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		if manifest(name) {
			s.problems = append(s.problems, Problem{s.relative(path), "the symbolic link leads nowhere"})
		}
		return nil
	}
	if real != s.top && !strings.HasPrefix(real, s.top+string(filepath.Separator)) {
		s.problems = append(s.problems, Problem{s.relative(path), "the symbolic link leads out of the tree"})
		return nil
	}
	if !manifest(name) {
		return nil
	}
	info, err := os.Stat(real)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	return s.file(path, info)
}

func (s *scan) relative(path string) string {
	rel, err := filepath.Rel(s.top, path)
	if err != nil {
		return path
	}
	return filepath.ToSlash(rel)
}

// file takes the hash of a file that looks as it did, and reads one that does not.
func (s *scan) file(path string, info fs.FileInfo) error {
	name := s.relative(path)
	before, ok := s.known[name]
	if ok && !before.racy && before.size == info.Size() && before.mtime.Equal(info.ModTime()) && before.inode == inodeOf(info) {
		s.files[name] = before
		return nil
	}
	// An empty file is most often one that is about to be written.
	if info.Size() == 0 && s.now.Sub(info.ModTime()) < settle && s.now.After(info.ModTime()) {
		s.stable = false
		return nil
	}
	hash, err := hashFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			s.stable = false
			return nil
		}
		return err
	}
	after, err := os.Stat(path)
	if err != nil || after.Size() != info.Size() || !after.ModTime().Equal(info.ModTime()) || inodeOf(after) != inodeOf(info) {
		s.stable = false
		return nil
	}
	s.files[name] = known{info.Size(), info.ModTime(), inodeOf(info), hash, time.Since(info.ModTime()) < racy}
	return nil
}

func (s *scan) revision() *Revision {
	names := make([]string, 0, len(s.files))
	for name := range s.files {
		names = append(names, name)
	}
	slices.Sort(names)
	rev := &Revision{Time: s.now, Problems: s.problems, Files: make([]File, 0, len(names))}
	id := sha256.New()
	for _, name := range names {
		k := s.files[name]
		io.WriteString(id, name+"\x00"+k.hash+"\n")
		path := filepath.Join(s.top, filepath.FromSlash(name))
		rev.Files = append(rev.Files, File{Path: name, Hash: k.hash, Size: k.size, Read: func() ([]byte, error) {
			return readFile(path, name, k)
		}})
	}
	for _, p := range s.problems {
		io.WriteString(id, p.Error()+"\n")
	}
	rev.ID = "sha256:" + hex.EncodeToString(id.Sum(nil))
	return rev
}

// ErrChanged: a file is no longer what it was when its revision was yielded; a newer revision follows.
var ErrChanged = errors.New("it changed while it was read")

// readFile reads at most what tells that a file is too large; one that is not must be what was hashed.
func readFile(path, name string, k known) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = ErrChanged
		}
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if sum := sha256.Sum256(data); k.size <= MaxFile && hex.EncodeToString(sum[:]) != k.hash {
		return nil, fmt.Errorf("cannot read %s: %w", name, ErrChanged)
	}
	return data, nil
}

func hashFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func inodeOf(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}
