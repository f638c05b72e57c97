// Package sealing keeps what is secret in files of the agent so that only the node's key opens them.
package sealing

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"lockstep/internal/sealed"
	"lockstep/internal/whole"
)

// head is how a sealed file begins; a file of JSON, as older agents kept, does not.
const head = "lockstep sealed 1\n"

// purpose is why the node's key is made another of: whoever has the one that seals has not the one that signs.
const purpose = "lockstep: what the agent keeps"

// Sealer seals files. The zero value keeps them as they are, for an agent without a key. Any number of goroutines may use one.
type Sealer struct {
	key func() (sealed.Key, error)
}

// New returns a sealer with a key that is derived from the node's private key, which is read when it is first needed.
func New(node func() (*ecdsa.PrivateKey, error)) Sealer {
	var mu sync.Mutex
	var known *sealed.Key
	return Sealer{key: func() (sealed.Key, error) {
		mu.Lock()
		defer mu.Unlock()
		if known != nil {
			return *known, nil
		}
		private, err := node()
		if err != nil {
			return sealed.Key{}, err
		}
		secret, err := private.Bytes()
		if err != nil {
			return sealed.Key{}, fmt.Errorf("cannot use the node's key: %w", err)
		}
		derived, err := hkdf.Key(sha256.New, secret, nil, purpose, sealed.Size)
		if err != nil {
			return sealed.Key{}, fmt.Errorf("cannot use the node's key: %w", err)
		}
		known = new(sealed.Key(derived))
		return *known, nil
	}}
}

// Seal returns what to write into the file that has a place, which is its path below the agent's folder.
func (s Sealer) Seal(place string, data []byte) ([]byte, error) {
	if s.key == nil {
		return data, nil
	}
	key, err := s.key()
	if err != nil {
		return nil, err
	}
	out, err := key.Seal(place, data)
	return append([]byte(head), out...), err
}

// Open returns what was sealed for a place, or data as they are that never were. An error says that they were sealed with another
// node's key or an earlier one, for another file, or were damaged.
func (s Sealer) Open(place string, data []byte) ([]byte, error) {
	rest, isSealed := bytes.CutPrefix(data, []byte(head))
	if !isSealed {
		return data, nil
	}
	if s.key == nil {
		return nil, errors.New("it is sealed, and this agent has no key")
	}
	key, err := s.key()
	if err != nil {
		return nil, err
	}
	return key.Open(place, rest)
}

// SealAll seals the files of a folder that an older agent has kept as they are; place returns the place of a file by its name. A
// folder that is not there has none.
func (s Sealer) SealAll(dir string, place func(name string) string) error {
	if s.key == nil {
		return nil
	}
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot seal what is kept: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		data, err := os.ReadFile(path)
		if err != nil || !f.Type().IsRegular() || bytes.HasPrefix(data, []byte(head)) {
			continue // it went since, or is sealed
		}
		if data, err = s.Seal(place(f.Name()), data); err == nil {
			err = whole.Write(path, data)
		}
		if err != nil {
			return fmt.Errorf("cannot seal what is kept in %s: %w", path, err)
		}
	}
	return nil
}
