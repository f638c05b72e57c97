package validate

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"lockstep/sync/manifest"
	"lockstep/sync/manifest/tree"
)

// finder collects the files that paths name.
type finder struct {
	files []manifest.File
	errs  manifest.Errors
	seen  map[string]bool // absolute paths: a file that is named by itself and by its folder is read once
}

// add takes a file, whatever its name is, or the manifests below a folder, as a source reads them.
func (f *finder) add(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return cause(err)
	}
	if !info.IsDir() {
		return f.file(path, path)
	}
	top, err := filepath.EvalSymlinks(path)
	if err != nil {
		return cause(err)
	}
	if top, err = filepath.Abs(top); err != nil {
		return err
	}
	folder := &tree.Folder{Path: top}
	found, err := tree.Walk(ctx, folder, "", tree.Bounds())
	if err != nil {
		return err
	}
	for _, p := range found.Problems {
		f.fail(filepath.Join(path, filepath.FromSlash(p.Path)), p.Message)
	}
	for _, m := range found.Files {
		if err := f.file(filepath.Join(path, filepath.FromSlash(m.Path)), folder.On(m.Real)); err != nil {
			return err
		}
	}
	return nil
}

// file takes a file that is at real and named path.
func (f *finder) file(path, real string) error {
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
			data, err := tree.Read(real, manifest.MaxFile)
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

// input takes what is to be read from in, once.
func (f *finder) input(in io.Reader) {
	if f.seen["-"] {
		return
	}
	f.seen["-"] = true
	f.files = append(f.files, manifest.File{Path: "-", Data: sync.OnceValues(func() ([]byte, error) {
		return io.ReadAll(io.LimitReader(in, manifest.MaxFile+1))
	})})
}
