package pki

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"lockstep/internal/sealed"
)

// encryptionFile has the keys that Secrets are sealed with in etcd.
const encryptionFile = "encryption.json"

// SealingKey is a key that values in etcd are sealed with. Its name is made of its bytes, so that no two keys have one.
type SealingKey struct {
	Name   string    `json:"name"`
	Secret []byte    `json:"secret"` // sealed.Size bytes
	Made   time.Time `json:"made"`
}

// NewSealingKey makes a key.
func NewSealingKey(now time.Time) SealingKey {
	key := sealed.NewKey()
	return SealingKey{Name: sealingName(key[:]), Secret: key[:], Made: now.UTC().Truncate(time.Second)}
}

// String keeps the key out of logs.
func (k SealingKey) String() string { return "key " + k.Name }

// GoString keeps the key out of logs.
func (k SealingKey) GoString() string { return k.String() }

// Key is what seals. The key must be valid.
func (k SealingKey) Key() sealed.Key { return sealed.Key(k.Secret) }

// Valid returns an error for a key that was changed since it was made.
func (k SealingKey) Valid() error {
	switch {
	case len(k.Secret) != sealed.Size:
		return fmt.Errorf("key %q has %d bytes, want %d", k.Name, len(k.Secret), sealed.Size)
	case k.Name != sealingName(k.Secret):
		return fmt.Errorf("key %q is another than its name says", k.Name)
	}
	return nil
}

// sealingName tells nothing of a key that helps to find it: of 256 random bits, 40 bits of a hash.
func sealingName(secret []byte) string {
	sum := sha256.Sum256(append([]byte("lockstep sealing key "), secret...))
	return hex.EncodeToString(sum[:5])
}

// SealingKeys are the keys in a vault. Any number of goroutines may use one.
type SealingKeys struct {
	vault Vault

	mu   sync.Mutex
	keys []SealingKey
}

type encryptionDocument struct {
	Keys []SealingKey `json:"keys"`
}

// OpenSealingKeys reads the keys in the vault, or makes a first one there where May allows it.
func OpenSealingKeys(vault Vault, now time.Time, may func() error) (*SealingKeys, error) {
	s := &SealingKeys{vault: vault}
	data, err := vault.Read(encryptionFile)
	if errors.Is(err, fs.ErrNotExist) {
		if err := may(); err != nil {
			return nil, err
		}
		if data, err = encodeSealingKeys([]SealingKey{NewSealingKey(now)}); err == nil {
			err = vault.Create(encryptionFile, data)
		}
		if err == nil || errors.Is(err, fs.ErrExist) {
			data, err = vault.Read(encryptionFile)
		}
	}
	if err == nil {
		s.keys, err = decodeSealingKeys(data)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the keys that Secrets are sealed with (%s): %w", encryptionFile, err)
	}
	return s, nil
}

func encodeSealingKeys(keys []SealingKey) ([]byte, error) {
	data, err := json.MarshalIndent(encryptionDocument{Keys: keys}, "", "  ")
	return append(data, '\n'), err
}

func decodeSealingKeys(data []byte) ([]SealingKey, error) {
	var doc encryptionDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, errors.New("it is not what Lockstep writes there; have it from a backup, or from another server's folder pki")
	}
	if len(doc.Keys) == 0 {
		return nil, errors.New("it has no key; have it from a backup, or from another server's folder pki")
	}
	for _, k := range doc.Keys {
		if err := k.Valid(); err != nil {
			return nil, fmt.Errorf("%w; have it from a backup, or from another server's folder pki", err)
		}
	}
	return doc.Keys, nil
}

// All returns the keys, the oldest first; the caller must not change them.
func (s *SealingKeys) All() []SealingKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys
}

// Add keeps another key, and returns once it would survive a crash. One that is kept already is kept once.
func (s *SealingKeys) Add(k SealingKey) error {
	return s.change(func(keys []SealingKey) []SealingKey {
		if slices.ContainsFunc(keys, func(is SealingKey) bool { return is.Name == k.Name }) {
			return keys
		}
		return append(slices.Clone(keys), k)
	})
}

// Keep drops every key that is not named; the last that is left is never dropped.
func (s *SealingKeys) Keep(names []string) error {
	return s.change(func(keys []SealingKey) []SealingKey {
		left := slices.DeleteFunc(slices.Clone(keys), func(k SealingKey) bool { return !slices.Contains(names, k.Name) })
		if len(left) == 0 {
			return keys
		}
		return left
	})
}

func (s *SealingKeys) change(f func([]SealingKey) []SealingKey) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := f(s.keys)
	if len(next) == len(s.keys) {
		return nil
	}
	data, err := encodeSealingKeys(next)
	if err == nil {
		err = s.vault.Replace(encryptionFile, data)
	}
	if err != nil {
		return fmt.Errorf("cannot write the keys that Secrets are sealed with (%s): %w", encryptionFile, err)
	}
	s.keys = next
	return nil
}
