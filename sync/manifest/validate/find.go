package validate

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"lockstep/sync/manifest"
)

// finder collects the files that paths name.
type finder struct {
	files []manifest.File
	errs  manifest.Errors
	seen  map[string]bool // absolute paths: a file that is named by itself and by its folder is read once
}

// add takes a file, or the manifests below a folder.
func (f *finder) add(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return cause(err)
	}
	if !info.IsDir() {
		return f.file(path, info)
	}
	top, err := filepath.EvalSymlinks(path)
	if err != nil {
		return cause(err)
	}
	if top, err = filepath.Abs(top); err != nil {
		return err
	}
	return filepath.WalkDir(path, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(path, at)
		if err != nil {
			return err
		}
		hidden := rel != "." && strings.HasPrefix(e.Name(), ".")
		switch {
		case e.IsDir() && hidden:
			return filepath.SkipDir
		case e.IsDir() || hidden:
			return nil
		case e.Type()&fs.ModeSymlink != 0:
			return f.link(top, at)
		case !manifest.Wanted(filepath.ToSlash(rel)):
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return f.file(at, info)
	})
}

// link reads a symbolic link to a manifest inside the tree as that manifest. A folder inside the tree is read where it
// is, not through a link as well; a link that leads out of the tree is an error, whatever it is named.
func (f *finder) link(top, at string) error {
	wanted := manifest.Wanted(filepath.Base(at))
	real, err := filepath.EvalSymlinks(at)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	switch {
	case err != nil && wanted:
		f.fail(at, "the symbolic link leads nowhere")
		return nil
	case err != nil:
		return nil
	case real != top && !strings.HasPrefix(real, top+string(filepath.Separator)):
		f.fail(at, "the symbolic link leads out of the tree")
		return nil
	case !wanted:
		return nil
	}
	info, err := os.Stat(real)
	if err != nil {
		return cause(err)
	}
	if info.IsDir() {
		return nil
	}
	return f.file(at, info)
}

func (f *finder) file(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		f.fail(path, "not a regular file")
		return nil
	}
	if info.Size() > manifest.MaxFile {
		f.fail(path, fmt.Sprintf("the file has %d bytes, more than the limit of %d MiB", info.Size(), manifest.MaxFile>>20))
		return nil
	}
	named, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if f.seen[named] {
		return nil
	}
	f.seen[named] = true
	f.files = append(f.files, manifest.File{
		Path: filepath.ToSlash(path),
		Data: func() ([]byte, error) {
			data, err := os.ReadFile(path)
			return data, cause(err)
		},
	})
	return nil
}

func (f *finder) fail(path, message string) {
	f.errs = append(f.errs, &manifest.Error{File: filepath.ToSlash(path), Message: message})
}

// cause drops the operation and the path from a file error: the caller names the path.
func cause(err error) error {
	if p, ok := err.(*fs.PathError); ok {
		return p.Err
	}
	return err
}
