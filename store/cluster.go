package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// Cluster is the identity of the data in an etcd, in the cluster key.
type Cluster struct {
	// ID is a random UUID made with the first Open.
	ID string `json:"id"`
	// Format of the data. A binary opens its own format and older ones.
	Format  int       `json:"format"`
	Created time.Time `json:"created"`
	// Settings are those it was made with, in whose meaning the store has no part. Empty: it was made before they were kept.
	Settings json.RawMessage `json:"settings,omitempty"`
}

// format is the data format this binary writes. It is raised when older binaries could not read what is written.
const format = 1

// openTimeout bounds the wait for an etcd that is still electing; the caller's ctx may end sooner.
const openTimeout = 15 * time.Second

// ErrNewerFormat says that a newer Lockstep has written the data; this binary must not touch it.
var ErrNewerFormat = errors.New("the data was written by a newer Lockstep")

func openCluster(ctx context.Context, kv clientv3.KV, key string, settings json.RawMessage, now time.Time) (Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	mine := Cluster{ID: string(uuid.NewUUID()), Format: format, Created: now.UTC().Truncate(time.Second), Settings: settings}
	data, err := json.Marshal(mine)
	if err != nil {
		return Cluster{}, err
	}
	resp, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(data))).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return Cluster{}, fmt.Errorf("cannot read the cluster key: %w", err)
	}
	if resp.Succeeded {
		return mine, nil
	}
	return parseCluster(resp.Responses[0].GetResponseRange().Kvs[0].Value)
}

// parseCluster reads the cluster key; the error matches ErrNewerFormat where this binary is too old.
func parseCluster(value []byte) (Cluster, error) {
	var c Cluster
	if err := json.Unmarshal(value, &c); err != nil || c.ID == "" || c.Format < 1 {
		return Cluster{}, errors.New("cannot read the cluster key: it is not what Lockstep writes there")
	}
	if c.Format > format {
		return Cluster{}, fmt.Errorf("%w: its format is %d, this binary knows up to %d", ErrNewerFormat, c.Format, format)
	}
	return c, nil
}
