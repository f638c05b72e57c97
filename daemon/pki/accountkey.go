package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
)

// AccountKey is the ECDSA P-256 key that signs tokens of service accounts. It is another than that of certificates, so that
// neither can be made to sign what the other is believed for.
func (a *Authority) AccountKey() *ecdsa.PrivateKey { return a.accountKey }

// openAccountKey reads the key from the vault, or makes it there.
func openAccountKey(vault Vault) (*ecdsa.PrivateKey, error) {
	data, err := vault.Read(accountKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createAccountKey(vault); err == nil {
			data, err = vault.Read(accountKeyFile)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the key of service accounts: %w", err)
	}
	return parseAccountKey(data)
}

func parseAccountKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("cannot read the key of service accounts: want PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the key of service accounts: %w", err)
	}
	return key, nil
}

func createAccountKey(vault Vault) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("cannot generate a key: %w", err)
	}
	data, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := vault.Create(accountKeyFile, data); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
