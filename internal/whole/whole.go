// Package whole replaces files so that a reader finds the one before or the one after, and nothing between.
package whole

import (
	"errors"
	"os"
	"path/filepath"
)

// Write replaces the file at path, which gets mode 0600; its directory must be there. Of several writers at once, one is
// the last. After an error the file is as it was.
func Write(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
