// Package encryption is how values are sealed in etcd: with which keys, and how these are replaced.
package encryption

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/storage/value"

	"lockstep/daemon/pki"
	"lockstep/internal/sealed"
	"lockstep/kinds"
	"lockstep/store"
)

// own is the provider of the cluster's own keys, in what a value says of itself.
const own = "lockstep"

// Keyring seals and opens values; it is the store's Transformer.
type Keyring struct {
	config Config
	files  *pki.SealingKeys

	learning sync.Mutex
	known    atomic.Pointer[known]
}

var _ store.Transformer = (*Keyring)(nil)

// known is what a keyring goes by, and is never changed.
type known struct {
	// writes names the cluster's own key that values are sealed with; empty: the cluster seals nothing yet.
	writes string
	keys   map[string]sealed.Key
	seals  map[string]*sealed.Many // by the same names
	state  State
}

// NewKeyring returns a keyring of the cluster's own keys, of which it seals with none before it has learned which, and of those of a
// configuration.
func NewKeyring(c Config, files *pki.SealingKeys) *Keyring {
	k := &Keyring{config: c, files: files}
	if c.Path == "" {
		k.config.providers = map[string][]provider{pathOf(kinds.For[*corev1.Secret]().GroupResource()): {{name: own}, {}}}
	}
	k.known.Store(k.with(State{}))
	return k
}

// with is what is known by a state and the files.
func (k *Keyring) with(s State) *known {
	next := &known{writes: s.Writes, keys: map[string]sealed.Key{}, seals: map[string]*sealed.Many{}, state: s}
	for _, key := range k.files.All() {
		next.add(key, k.known.Load())
	}
	return next
}

// add takes in a key, with what seals with it already, if anything does.
func (n *known) add(key pki.SealingKey, before *known) {
	n.keys[key.Name] = key.Key()
	if before != nil && before.seals[key.Name] != nil {
		n.seals[key.Name] = before.seals[key.Name]
	} else {
		n.seals[key.Name] = sealed.NewMany(key.Key())
	}
}

// resource is the part of an etcd key that says of what kind it is, "core/secrets": of an object, or of a record that a source has
// of one. Empty: it is neither.
func resource(key string) string {
	rest, ok := strings.CutPrefix(key, store.DefaultPrefix)
	if !ok {
		return ""
	}
	part, rest, _ := strings.Cut(rest, "/")
	switch part {
	case "objects":
	case "events":
		return "core/events"
	case "records": // records/<table>/<source>/<path of the object>
		_, rest, _ = strings.Cut(rest, "/")
		_, rest, _ = strings.Cut(rest, "/")
	default:
		return ""
	}
	group := strings.IndexByte(rest, '/')
	if group < 0 {
		return ""
	}
	if end := strings.IndexByte(rest[group+1:], '/'); end >= 0 {
		return rest[:group+1+end]
	}
	return ""
}

// Seals implements store.Transformer.
func (k *Keyring) Seals(key string) bool { return k.config.providers[resource(key)] != nil }

// Writes implements store.Transformer.
func (k *Keyring) Writes(key string) string {
	providers := k.config.providers[resource(key)]
	if len(providers) == 0 {
		return ""
	}
	if providers[0].name == own {
		return k.known.Load().writes
	}
	return providers[0].name
}

// ToStorage implements store.Transformer.
func (k *Keyring) ToStorage(key string, to, data []byte) ([]byte, error) {
	providers := k.config.providers[resource(key)]
	if len(providers) == 0 {
		return append(to, data...), nil
	}
	first := providers[0]
	switch {
	case first.name == own:
		now := k.known.Load()
		if now.writes == "" {
			return append(to, data...), nil
		}
		return now.seals[now.writes].Append(key, data, to, []byte(headOf(own+":"+now.writes)))
	case first.with == nil:
		return append(to, data...), nil
	}
	out, err := first.with.TransformToStorage(context.Background(), data, value.DefaultContext(key))
	return slices.Concat(to, []byte(headOf(first.name)), out), err
}

// headOf is how a value begins that is sealed with a provider's key, as in Kubernetes: "k8s:enc:aesgcm:v1:key1:".
func headOf(name string) string {
	provider, key, _ := strings.Cut(name, ":")
	return store.SealedPrefix + provider + ":v1:" + key + ":"
}

// FromStorage implements store.Transformer.
func (k *Keyring) FromStorage(key string, data []byte) ([]byte, string, error) {
	rest, isSealed := bytes.CutPrefix(data, []byte(store.SealedPrefix))
	if !isSealed {
		if k.readsPlain(key) {
			return data, "", nil
		}
		return nil, "", fmt.Errorf("%w: it is not sealed, and no provider of %s in %s reads that: state identity: {} as the last",
			store.ErrNoKey, resource(key), k.config.Path)
	}
	parts := bytes.SplitN(rest, []byte(":"), 4)
	if len(parts) != 4 || string(parts[1]) != "v1" {
		return nil, "", errors.New("it is sealed in a way that is not known here")
	}
	provider, name := string(parts[0]), string(parts[2])
	if provider == own {
		out, err := k.openOwn(key, name, parts[3])
		return out, name, err
	}
	out, err := k.openConfigured(key, provider+":"+name, parts[3])
	return out, provider + ":" + name, err
}

func (k *Keyring) readsPlain(key string) bool {
	providers := k.config.providers[resource(key)]
	return providers == nil || slices.ContainsFunc(providers, func(p provider) bool { return p.name == "" })
}

// remedy is what to do about a value that alone cannot be opened.
const remedy = "have it back from a backup of etcd, or let it go (lockstep encryption discard) so that its source states it anew"

func (k *Keyring) openOwn(key, name string, data []byte) ([]byte, error) {
	with, ok := k.known.Load().seals[name]
	if !ok {
		return nil, fmt.Errorf("%w: it is sealed with key %s of the cluster, which is not in pki/encryption.json of this server: "+
			"have that file from a backup of the keys or from another server", store.ErrNoKey, name)
	}
	out, err := with.Open(key, data)
	if err != nil {
		return nil, fmt.Errorf("it does not open with key %s, though it says so: it was damaged, or stored under another name; %s",
			name, remedy)
	}
	return out, nil
}

// openConfigured tries the keys of that name: those of the value's kind first, then those of others.
func (k *Keyring) openConfigured(key, name string, data []byte) ([]byte, error) {
	found := false
	kinds := append([]string{resource(key)}, slices.Sorted(maps.Keys(k.config.providers))...)
	for _, kind := range kinds {
		for _, p := range k.config.providers[kind] {
			if p.name != name || p.with == nil {
				continue
			}
			found = true
			if out, _, err := p.with.TransformFromStorage(context.Background(), data, value.DefaultContext(key)); err == nil {
				return out, nil
			}
		}
	}
	switch {
	case found:
		return nil, fmt.Errorf("it does not open with key %s of %s, though it says so: the key is another than it was, or the value was "+
			"damaged or stored under another name; state the key as it was, or %s", name, k.config.Path, remedy)
	case k.config.Path == "":
		return nil, fmt.Errorf("%w: it is sealed with key %s of an EncryptionConfiguration: name its file, --encryption-config",
			store.ErrNoKey, name)
	}
	return nil, fmt.Errorf("%w: it is sealed with key %s, which is not in %s: state it there, after the others",
		store.ErrNoKey, name, k.config.Path)
}

// Record implements store.Transformer.
func (k *Keyring) Record() (table, name string) { return string(Table), stateName }

// Learn implements store.Transformer.
func (k *Keyring) Learn(data []byte) error {
	if data == nil {
		return nil
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return errors.New("the record of the cluster's keys is not what Lockstep writes there")
	}
	k.learning.Lock()
	defer k.learning.Unlock()
	next := k.with(s)
	if s.Next != nil {
		if _, have := next.keys[s.Next.Name]; !have {
			key, err := s.Next.open(next.keys)
			if err == nil {
				next.add(key, k.known.Load())
			}
		}
	}
	if _, have := next.keys[s.Writes]; !have && s.Writes != "" {
		return fmt.Errorf("the cluster seals with key %s, which is not in pki/encryption.json of this server: have that file from "+
			"a backup of the keys or from another server; nothing was changed", s.Writes)
	}
	k.known.Store(next)
	return nil
}

// Kept says which of the cluster's own keys would survive a restart, and with which this process seals.
func (k *Keyring) Kept() (names []string, writes string) {
	for _, key := range k.files.All() {
		names = append(names, key.Name)
	}
	return names, k.known.Load().writes
}

// Keep makes the files as the state says: with the key that is offered, and without those that are of no use any more.
func (k *Keyring) Keep() error {
	k.learning.Lock()
	defer k.learning.Unlock()
	now := k.known.Load()
	if now.state.Writes == "" {
		return nil
	}
	wanted := slices.Clone(now.state.Keys)
	if next := now.state.Next; next != nil {
		key, err := next.open(now.keys)
		if err != nil {
			return err
		}
		if err := k.files.Add(key); err != nil {
			return err
		}
		wanted = append(wanted, next.Name)
	}
	if err := k.files.Keep(wanted); err != nil {
		return err
	}
	next := k.with(now.state)
	k.known.Store(next)
	return nil
}

// First is the state of a cluster that is made with this server's keys.
func (k *Keyring) First() State {
	all := k.files.All()
	return First(all[len(all)-1].Name)
}

// Path is that of the configuration; empty: the cluster's own keys seal.
func (k *Keyring) Path() string { return k.config.Path }
