package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"lockstep/internal/whole"
)

// Vault keeps the authority's documents. Its only implementation today is a directory of one server; servers that share
// an authority bring another.
type Vault interface {
	// Read returns a document, or an error that matches fs.ErrNotExist.
	Read(name string) ([]byte, error)
	// Create stores a document whole or not at all; where one of that name exists already it is kept, and the error
	// matches fs.ErrExist.
	Create(name string, data []byte) error
	// Replace stores a document whole or not at all, also where one of that name exists.
	Replace(name string, data []byte) error
	// Append adds to the end of a document, which exists. It returns when the addition would survive a crash; after a
	// failure a part of it may have been written.
	Append(name string, data []byte) error
}

// Dir is a vault of files that only their owner may read (0600 in a directory of 0700). The directory is made when the
// first document is.
type Dir string

// Read implements Vault.
func (d Dir) Read(name string) ([]byte, error) { return os.ReadFile(filepath.Join(string(d), name)) }

// Create implements Vault: written to a temporary file, synced, then linked to its name, which fails if that exists. Where it does
// before, nothing is written: the disk may be full.
func (d Dir) Create(name string, data []byte) error {
	if _, err := os.Lstat(filepath.Join(string(d), name)); err == nil {
		return fmt.Errorf("cannot create %s: %w", name, fs.ErrExist)
	}
	return d.write(name, data, os.Link)
}

// Replace implements Vault.
func (d Dir) Replace(name string, data []byte) error { return d.write(name, data, os.Rename) }

func (d Dir) write(name string, data []byte, place func(from, to string) error) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("cannot create %s: %w", d, err)
	}
	f, err := os.CreateTemp(string(d), "."+name+"-*")
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", name, err)
	}
	defer os.Remove(f.Name())
	if err = written(f, data); err == nil {
		err = place(f.Name(), filepath.Join(string(d), name))
	}
	if err == nil {
		err = whole.Sync(string(d))
	}
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", name, err)
	}
	return nil
}

// Append implements Vault.
func (d Dir) Append(name string, data []byte) error {
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		err = written(f, data)
	}
	if err != nil {
		return fmt.Errorf("cannot write to %s: %w", name, err)
	}
	return nil
}

// written writes, syncs and closes a file.
func written(f *os.File, data []byte) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
