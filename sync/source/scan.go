package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"lockstep/sync/manifest/tree"
)

// racy is how close before its reading a file may have been written for a later write to leave the same time stamp:
// the kernel's clock for time stamps ticks every 4 to 10 ms.
const racy = 20 * time.Millisecond

// known is what a file looked like when its content was last hashed.
type known struct {
	path  string // where it is
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
	ignored  []string
}

// walk reads a directory and all below it. What vanishes meanwhile is left out.
func (s *scan) walk(ctx context.Context, root string) error {
	folder := &tree.Folder{Path: s.top, Visit: s.visit}
	found, err := tree.Walk(ctx, folder, root, tree.Bounds())
	if err != nil {
		return err
	}
	if folder.Vanished {
		s.stable = false
	}
	s.problems, s.ignored = found.Problems, found.Ignored
	for _, m := range found.Files {
		real := folder.On(m.Real)
		info, err := os.Lstat(real)
		if err != nil || !info.Mode().IsRegular() {
			s.stable = false
			continue
		}
		if err := s.file(m.Path, real, info); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) visit(path string) {
	if info, err := os.Lstat(path); err == nil {
		s.dir(path, inodeOf(info))
	}
}

// file takes the hash of a file that looks as it did, and reads one that does not.
func (s *scan) file(name, path string, info fs.FileInfo) error {
	before, ok := s.known[name]
	if ok && !before.racy && before.path == path && before.size == info.Size() && before.mtime.Equal(info.ModTime()) &&
		before.inode == inodeOf(info) {
		s.files[name] = before
		return nil
	}
	// An empty file is most often one that is about to be written.
	if info.Size() == 0 && s.now.Sub(info.ModTime()) < settle && s.now.After(info.ModTime()) {
		s.stable = false
		return nil
	}
	hash, err := hashFile(path, info)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, tree.ErrNotRegular) {
			s.stable = false
			return nil
		}
		return err
	}
	after, err := os.Lstat(path)
	if err != nil || after.Size() != info.Size() || !after.ModTime().Equal(info.ModTime()) || inodeOf(after) != inodeOf(info) {
		s.stable = false
		return nil
	}
	s.files[name] = known{path, info.Size(), info.ModTime(), inodeOf(info), hash, time.Since(info.ModTime()) < racy}
	return nil
}

func (s *scan) revision() *Revision {
	names := make([]string, 0, len(s.files))
	for name := range s.files {
		names = append(names, name)
	}
	slices.Sort(names)
	rev := &Revision{Time: s.now, Problems: s.problems, Ignored: s.ignored, Files: make([]File, 0, len(names))}
	id := sha256.New()
	for _, name := range names {
		k := s.files[name]
		io.WriteString(id, name+"\x00"+k.hash+"\n")
		rev.Files = append(rev.Files, File{Path: name, Hash: k.hash, Read: func() ([]byte, error) {
			return readFile(name, k)
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
func readFile(name string, k known) ([]byte, error) {
	data, err := tree.Read(k.path, MaxFile)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, tree.ErrNotRegular) {
			err = ErrChanged
		}
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if sum := sha256.Sum256(data); k.size <= MaxFile && hex.EncodeToString(sum[:]) != k.hash {
		return nil, fmt.Errorf("cannot read %s: %w", name, ErrChanged)
	}
	return data, nil
}

// hashFile hashes a file's content. One that is too large to be read is known by how it looks.
func hashFile(path string, info fs.FileInfo) (string, error) {
	if info.Size() > MaxFile {
		return fmt.Sprintf("large:%d:%d:%d", info.Size(), info.ModTime().UnixNano(), inodeOf(info)), nil
	}
	data, err := tree.Read(path, MaxFile)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

func inodeOf(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}
