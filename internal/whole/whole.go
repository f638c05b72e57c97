// Package whole replaces files so that a reader finds the one before or the one after, and nothing between, after a power cut
// as well.
package whole

import (
	"errors"
	"os"
	"path/filepath"
)

// Write replaces the file at path, which gets mode 0600; its directory must be there. Of several writers at once, one is
// the last. Once it has returned, the file outlives a power cut; after an error it is as it was, or, where only that cannot be
// promised, it is the new one.
func Write(path string, data []byte) error {
	if err := Replace(path, data); err != nil {
		return err
	}
	return Sync(filepath.Dir(path))
}

// Sync makes the names in a directory, or what a file has, outlive a power cut.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Replace is Write for a file of which the one before is good enough after a power cut. It spares the disk one of two waits.
func Replace(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync() // before it has its name: else a power cut may leave the name of an empty file
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
