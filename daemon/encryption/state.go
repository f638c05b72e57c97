package encryption

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lockstep/daemon/pki"
	"lockstep/internal/sealed"
	"lockstep/store"
	"lockstep/store/view"
)

const (
	// Table has one row, of the cluster's own keys: their names, and no key.
	Table     view.Table[State] = "encryption"
	stateName                   = "state"
	// nextPlace is what a key that is handed to the servers is sealed for.
	nextPlace = "the cluster's next key"
)

// State is with which of the cluster's own keys values are sealed.
type State struct {
	// Writes is the key that every server seals with.
	Writes string `json:"writes"`
	// Keys are those that values may be sealed with, the oldest first.
	Keys []string `json:"keys"`
	// Next is a key that is being handed to the servers, and afterwards until nothing is sealed with the one before. Nil: no
	// rotation is under way.
	Next *Next `json:"next,omitempty"`
	// Rotated is when the last rotation ended; zero: there was none.
	Rotated time.Time `json:"rotated,omitzero"`
}

// Next is a key on its way to the servers, sealed with the one that they have.
type Next struct {
	Name  string    `json:"name"`
	By    string    `json:"by"`
	Key   []byte    `json:"key"`
	Since time.Time `json:"since"`
}

// First is the state of a cluster that has one key.
func First(key string) State { return State{Writes: key, Keys: []string{key}} }

// Record is the row of a state.
func (s State) Record() *view.Record { return Table.Record(stateName, s) }

// Unsealed returns an error where the cluster behind a client seals values, which a server without keys could not read.
func Unsealed(ctx context.Context, kv clientv3.KV) error {
	has, err := store.Has(ctx, kv, string(Table), stateName)
	if err == nil && has {
		err = errors.New("this cluster's Secrets are sealed, and pki/encryption.json is not there: have it from a backup of the keys " +
			"or from another server; nothing was changed")
	}
	return err
}

// In returns the state in a view, and its revision; zero: there is none.
func In(v *view.View) (State, int64, error) {
	row, _, err := Table.Get(v, stateName)
	return row.Value, row.Revision, err
}

// offer is a new key, sealed with the one that writes.
func offer(key pki.SealingKey, by string, with sealed.Key, now time.Time) (*Next, error) {
	data, err := json.Marshal(key)
	if err == nil {
		data, err = with.Seal(nextPlace, data)
	}
	return &Next{Name: key.Name, By: by, Key: data, Since: now.UTC().Truncate(time.Second)}, err
}

// open returns the key.
func (n *Next) open(keys map[string]sealed.Key) (pki.SealingKey, error) {
	var key pki.SealingKey
	with, ok := keys[n.By]
	if !ok {
		return key, fmt.Errorf("cannot take the cluster's next key %s: it is sealed with key %s, which is not here", n.Name, n.By)
	}
	data, err := with.Open(nextPlace, n.Key)
	if err == nil {
		err = json.Unmarshal(data, &key)
	}
	if err == nil {
		err = key.Valid()
	}
	if err != nil || key.Name != n.Name {
		return key, errors.New("cannot take the cluster's next key: what is stored of it is damaged")
	}
	return key, nil
}
