package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// document is one that a vault has.
type document struct {
	name     string
	required bool // a server cannot do without
}

// shared are the documents that every server of a cluster has: whoever has them is a server. They are handed from server to server,
// and lie nowhere else.
var shared = []document{
	{caKeyFile, true},
	{accountKeyFile, true},
	{caCertFile, false},
	{encryptionFile, false}, // who lacks it does not start
	{nextKeyFile, false},
	{oldCertFile, false},
	{ledgerFile, false},
}

// Export reads what a new server is to have of a vault, by name.
func Export(vault Vault) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, doc := range shared {
		data, err := vault.Read(doc.name)
		if errors.Is(err, fs.ErrNotExist) && !doc.required {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot hand the cluster's keys over: %w", err)
		}
		out[doc.name] = data
	}
	return out, nil
}

// Import puts what Export gave into the vault of a new server, where it is of the authority of that pin and the vault has no
// other authority's. It may be called again.
func Import(vault Vault, pin string, docs map[string][]byte) error {
	a, err := parse(docs[caKeyFile])
	if err == nil && Pin(a.cert) != pin {
		err = errors.New("they are another cluster's than the token's")
	}
	if err != nil {
		return fmt.Errorf("cannot take over the cluster's keys: %w", err)
	}
	for name := range docs {
		if !slices.ContainsFunc(shared, func(d document) bool { return d.name == name }) {
			return fmt.Errorf("cannot take over the cluster's keys: %q is none of them; is that server's release another one?", name)
		}
	}
	for _, doc := range shared {
		if _, given := docs[doc.name]; !given && doc.required {
			return fmt.Errorf("cannot take over the cluster's keys: %s is missing", doc.name)
		}
	}
	if mine, err := vault.Read(caKeyFile); err == nil {
		if old, err := parse(mine); err != nil || Pin(old.cert) != pin {
			return errors.New("cannot take over the cluster's keys: this data directory has those of another cluster already; " +
				"lockstep reset removes them")
		}
	}
	for _, doc := range shared {
		if data, given := docs[doc.name]; given {
			if err := vault.Replace(doc.name, data); err != nil {
				return fmt.Errorf("cannot take over the cluster's keys: %w", err)
			}
		}
	}
	return nil
}
