package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// place is where a log file is: at a path below the directory of all pods' logs. A pod that has the host's /var/log may
// swap parts of that path: no link leads out of the directory, and nothing but a plain file is opened.
type place struct {
	*os.Root
	rel string // of the log file: <pod>/<container>/<n>.log
}

// placeOf opens the place of a log file; Close it.
func placeOf(path string) (place, error) {
	top := filepath.Dir(filepath.Dir(filepath.Dir(path)))
	root, err := os.OpenRoot(top)
	if err != nil {
		return place{}, err
	}
	rel, err := filepath.Rel(top, path)
	if err != nil {
		return place{}, errors.Join(err, root.Close())
	}
	return place{root, rel}, nil
}

// makePlace makes the directories of a log file.
func makePlace(path string) (place, error) {
	if err := os.MkdirAll(filepath.Dir(filepath.Dir(filepath.Dir(path))), 0o755); err != nil {
		return place{}, err
	}
	p, err := placeOf(path)
	if err != nil {
		return p, err
	}
	if err := p.MkdirAll(filepath.Dir(p.rel), 0o755); err != nil {
		return p, errors.Join(err, p.Close())
	}
	return p, nil
}

var errNotPlain = errors.New("it is not a plain file")

// plain opens a regular file itself, never what a link leads to, and does not wait for a FIFO's other side.
func (p place) plain(rel string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := p.OpenFile(rel, flag|syscall.O_NONBLOCK|syscall.O_NOCTTY, mode)
	if err != nil {
		return nil, err
	}
	opened, err := f.Stat()
	var named os.FileInfo
	if err == nil {
		named, err = p.Lstat(rel)
	}
	if err == nil && (!opened.Mode().IsRegular() || !os.SameFile(opened, named)) {
		err = errNotPlain
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Open opens a log file, or one it was rotated to, for reading.
func Open(path string) (*os.File, error) {
	p, err := placeOf(path)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return p.plain(p.rel, os.O_RDONLY, 0)
}

// Remove removes a log file with those it was rotated to; an absent one is no error.
func Remove(path string) error {
	p, err := placeOf(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	var errs []error
	for _, rel := range p.with("") {
		if err := p.Root.Remove(rel); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("cannot remove log: %w", err))
		}
	}
	return errors.Join(errs...)
}

// with lists the files in the log's directory whose names begin with the log's and this; nothing if it cannot be read.
func (p place) with(suffix string) []string {
	dir, err := p.OpenFile(filepath.Dir(p.rel), os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var out []string
	for _, name := range names {
		if strings.HasPrefix(name, filepath.Base(p.rel)+suffix) {
			out = append(out, filepath.Join(filepath.Dir(p.rel), name))
		}
	}
	return out
}
