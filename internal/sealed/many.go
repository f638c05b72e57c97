package sealed

import (
	"context"
	"crypto/aes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apiserver/pkg/storage/value"
	kubeaes "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
)

const (
	// dataKey is what a data key is sealed for.
	dataKey = "a data key"
	// headSize is that of a sealed data key: nonce and tag of the box, the place's hash, and the key.
	headSize = 24 + 16 + 32 + Size
	// maxDataKeys bounds the data keys that are remembered: every life of every server that has written values has one, and none
	// outlives the next rotation. Beyond, they are forgotten, and opened anew.
	maxDataKeys = 1024
)

// Many seals many values with a key, fast: as Kubernetes' KMS v2 does, by AES-GCM with a data key that is this process's own, made at
// its first value, and whose nonces are counted; the data key lies before each value, sealed with the key. Any number of goroutines may use
// one.
type Many struct {
	key Key

	mu    sync.Mutex
	head  []byte // the process's own data key, sealed
	with  value.Transformer
	known map[string]value.Transformer // by sealed data key
}

// NewMany returns what seals with a key.
func NewMany(k Key) *Many { return &Many{key: k, known: map[string]value.Transformer{}} }

// Seal is as Key.Seal.
func (m *Many) Seal(place string, data []byte) ([]byte, error) { return m.Append(place, data) }

// Append is Seal behind some bytes that are left as they are.
func (m *Many) Append(place string, data []byte, behind ...[]byte) ([]byte, error) {
	head, with, err := m.own()
	if err != nil {
		return nil, err
	}
	out, err := with.TransformToStorage(context.Background(), data, value.DefaultContext(place))
	return slices.Concat(append(behind, head, out)...), err
}

// own returns this process's data key.
func (m *Many) own() ([]byte, value.Transformer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.with != nil {
		return m.head, m.with, nil
	}
	with, data, err := kubeaes.NewGCMTransformerWithUniqueKeyUnsafe() // never used by another process to seal
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a data key: %w", err)
	}
	head, err := m.key.Seal(dataKey, data)
	if err == nil && len(head) != headSize {
		err = errors.New("a sealed data key has another size than it should")
	}
	if err != nil {
		return nil, nil, err
	}
	m.head, m.with = head, with
	return head, with, nil
}

// Open is as Key.Open.
func (m *Many) Open(place string, data []byte) ([]byte, error) {
	if len(data) < headSize {
		return nil, errOther
	}
	with, err := m.of(data[:headSize])
	if err != nil {
		return nil, err
	}
	out, _, err := with.TransformFromStorage(context.Background(), data[headSize:], value.DefaultContext(place))
	if err != nil {
		return nil, errOther
	}
	return out, nil
}

// of returns what opens the values behind a sealed data key.
func (m *Many) of(head []byte) (value.Transformer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if with := m.known[string(head)]; with != nil {
		return with, nil
	}
	secret, err := m.key.Open(dataKey, head)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	with, err := kubeaes.NewGCMTransformer(block)
	if err != nil {
		return nil, err
	}
	if len(m.known) >= maxDataKeys {
		clear(m.known)
	}
	m.known[string(head)] = with
	return with, nil
}
