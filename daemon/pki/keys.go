package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"lockstep/internal/whole"
)

// needed are the files without which an authority is another one. All others beside them are its own, too: what it keeps of nodes, keys
// that were rotated, and those by which values in etcd are encrypted.
func needed() []string { return []string{caCertFile, caKeyFile, accountKeyFile} }

// maxFile bounds a file of the authority: a ledger of ten thousand nodes has two mebibytes.
const maxFile = 16 << 20

// Files are all files of an authority, by name, for a backup of keys. It is an error that one is missing without which there is none.
func (d Dir) Files() (map[string][]byte, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, fmt.Errorf("cannot read the cluster's keys: %w", err)
	}
	out := map[string][]byte{}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") { // a dot begins what is being written
			continue
		}
		info, err := e.Info()
		if err == nil && info.Size() > maxFile {
			err = errors.New("it is too large for a key")
		}
		var data []byte
		if err == nil {
			data, err = d.Read(e.Name())
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read %s of the cluster's keys: %w", e.Name(), err)
		}
		out[e.Name()] = data
	}
	for _, name := range needed() {
		if out[name] == nil {
			return nil, fmt.Errorf("cannot read the cluster's keys: there is no %s in %s", name, d)
		}
	}
	return out, nil
}

// Restore writes the files of an authority that were backed up, into a folder where there is none, or in the place of one where that is
// to be replaced: it is kept beside, in the folder whose name is returned.
func (d Dir) Restore(files map[string][]byte, replace bool, kept string) (err error) {
	for _, name := range needed() {
		if files[name] == nil {
			return fmt.Errorf("cannot restore the cluster's keys: there is no %s among them", name)
		}
	}
	_, err = os.Lstat(string(d))
	there := err == nil
	switch {
	case there && !replace:
		return fmt.Errorf("cannot restore the cluster's keys: %s is there already: %w", d, fs.ErrExist)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot restore the cluster's keys: %w", err)
	}
	staged := Dir(string(d) + ".restoring")
	if err := os.RemoveAll(string(staged)); err != nil {
		return fmt.Errorf("cannot restore the cluster's keys: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(string(staged))) }()
	for name, data := range files {
		if filepath.Base(name) != name || strings.HasPrefix(name, ".") {
			return fmt.Errorf("cannot restore the cluster's keys: one is called %q", name)
		}
		if err := staged.Create(name, data); err != nil {
			return fmt.Errorf("cannot restore the cluster's keys: %w", err)
		}
	}
	if there {
		if err := os.Rename(string(d), kept); err != nil {
			return fmt.Errorf("cannot restore the cluster's keys: %w", err)
		}
	}
	if err := os.Rename(string(staged), string(d)); err != nil {
		return fmt.Errorf("cannot restore the cluster's keys: %w", err)
	}
	return whole.Sync(filepath.Dir(string(d)))
}

// Identity tells authorities apart, in hex: the SHA-256 of the public key of service accounts' tokens, which no rotation changes. The
// error matches fs.ErrNotExist where there is none.
func (d Dir) Identity() (string, error) {
	data, err := d.Read(accountKeyFile)
	if err != nil {
		return "", fmt.Errorf("cannot read the cluster's keys: %w", err)
	}
	key, err := parseAccountKey(data)
	if err != nil {
		return "", err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return "", fmt.Errorf("cannot read the cluster's keys: %w", err)
	}
	return fingerprint(public), nil
}
