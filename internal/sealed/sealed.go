// Package sealed encrypts data so that who lacks the key can neither read them nor put them anywhere else unnoticed.
package sealed

import (
	"context"
	"crypto/rand"
	"fmt"

	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/aes"
)

// Size of a key in bytes.
const Size = aes.MinSeedSizeExtendedNonceGCM

// Key seals by Kubernetes' AES-GCM with an extended nonce: every value has a key of its own, derived from this one, so that the
// number of values that one Key may seal has no bound that matters.
type Key [Size]byte

// NewKey returns a random key.
func NewKey() Key {
	var k Key
	_, _ = rand.Read(k[:]) // never fails
	return k
}

// String keeps a key out of logs.
func (k Key) String() string { return "[a key]" }

// GoString keeps a key out of logs.
func (k Key) GoString() string { return k.String() }

// Seal returns data as only the key opens them, and only as what is kept at that place.
func (k Key) Seal(place string, data []byte) ([]byte, error) {
	t, err := k.transformer()
	if err != nil {
		return nil, err
	}
	return t.TransformToStorage(context.Background(), data, value.DefaultContext(place))
}

// Open returns what was sealed at a place. An error says that it was sealed with another key, at another place, or changed since.
func (k Key) Open(place string, data []byte) ([]byte, error) {
	t, err := k.transformer()
	if err != nil {
		return nil, err
	}
	out, _, err := t.TransformFromStorage(context.Background(), data, value.DefaultContext(place))
	if err != nil {
		return nil, fmt.Errorf("it was sealed with another key, for another place, or has been changed: %w", err)
	}
	return out, nil
}

// transformer is made anew for each value: one that is kept remembers the derived key of each for ten minutes, which is a kilobyte a
// value, and most are read once.
func (k Key) transformer() (value.Transformer, error) {
	return aes.NewHKDFExtendedNonceGCMTransformer(k[:])
}
