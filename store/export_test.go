package store

import (
	"context"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// RawValues returns the objects and records as they lie in etcd, by key.
func RawValues(t *testing.T, s *Store) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, part := range []string{"objects/", "records/"} {
		resp, err := s.client.Get(t.Context(), string(s.keys)+part, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range resp.Kvs {
			out[string(kv.Key)] = kv.Value
		}
	}
	return out
}

// MaxEvents is how many events are kept.
const MaxEvents = maxEvents

// TrimEvents does what the store does from time to time.
func TrimEvents(ctx context.Context, s *Store) { s.events.trim(ctx) }
