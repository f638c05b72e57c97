package pki

import (
	"fmt"
	"os"
	"path/filepath"
)

// Vault keeps the authority's documents. Its only implementation today is a directory of one server; servers that share
// an authority bring another.
type Vault interface {
	// Read returns a document, or an error that matches fs.ErrNotExist.
	Read(name string) ([]byte, error)
	// Create stores a document whole or not at all; where one of that name exists already it is kept, and the error
	// matches fs.ErrExist.
	Create(name string, data []byte) error
}

// Dir is a vault of files that only their owner may read (0600 in a directory of 0700). The directory is made when the
// first document is.
type Dir string

// Read implements Vault.
func (d Dir) Read(name string) ([]byte, error) { return os.ReadFile(filepath.Join(string(d), name)) }

// Create implements Vault: written to a temporary file, synced, then linked to its name, which fails if that exists.
func (d Dir) Create(name string, data []byte) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("cannot create %s: %w", d, err)
	}
	f, err := os.CreateTemp(string(d), "."+name+"-*")
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", name, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Link(f.Name(), filepath.Join(string(d), name))
	}
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", name, err)
	}
	return nil
}
