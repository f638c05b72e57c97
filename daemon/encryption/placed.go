package encryption

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"

	"k8s.io/apiserver/pkg/storage/value"
)

// placed is a transformer of values that also hold where they are stored: what it stands on does not authenticate that.
type placed struct{ value.Transformer }

// TransformToStorage implements value.Transformer.
func (p placed) TransformToStorage(ctx context.Context, data []byte, at value.Context) ([]byte, error) {
	place := sha256.Sum256(at.AuthenticatedData())
	return p.Transformer.TransformToStorage(ctx, append(place[:], data...), at)
}

// TransformFromStorage implements value.Transformer.
func (p placed) TransformFromStorage(ctx context.Context, data []byte, at value.Context) ([]byte, bool, error) {
	place := sha256.Sum256(at.AuthenticatedData())
	out, stale, err := p.Transformer.TransformFromStorage(ctx, data, at)
	if err != nil {
		return nil, false, err
	}
	if !bytes.HasPrefix(out, place[:]) {
		return nil, false, errors.New("it was stored at another place")
	}
	return out[len(place):], stale, nil
}
