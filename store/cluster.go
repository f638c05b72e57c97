package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
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
	// Rebuilding says that nodes may run what the data, made anew or restored from a backup, do not know. What says that this is over is
	// not here, since this never changes.
	Rebuilding bool `json:"rebuilding,omitempty"`
	// Settings are those it was made with, in whose meaning the store has no part. Empty: it was made before they were kept.
	Settings json.RawMessage `json:"settings,omitempty"`
}

// Format is the data format this binary knows. It is raised when older binaries could not read what is written: 2 is that values
// may be sealed, which those of format 1 would take for damaged, and write anew. New clusters have it from the start, others when
// all servers know it.
const Format = 2

// openTimeout bounds the wait for an etcd that is still electing; the caller's ctx may end sooner.
const openTimeout = 15 * time.Second

// ErrNewerFormat says that a newer Lockstep has written the data; this binary must not touch it.
var ErrNewerFormat = errors.New("the data was written by a newer Lockstep")

func openCluster(ctx context.Context, kv clientv3.KV, keys keyspace, c codec, opts Options) (Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	mine := Cluster{
		ID: string(uuid.NewUUID()), Format: Format, Created: opts.Now().UTC().Truncate(time.Second), Settings: opts.Settings,
		Rebuilding: opts.Rebuild,
	}
	data, err := json.Marshal(mine)
	if err != nil {
		return Cluster{}, err
	}
	key := keys.cluster()
	// Reading comes first: an etcd that is full refuses a transaction that could write, also where it would not.
	read, err := kv.Get(ctx, key)
	if err != nil {
		return Cluster{}, fmt.Errorf("cannot read the cluster key: %w", err)
	}
	if len(read.Kvs) > 0 {
		return known(ctx, kv, read.Kvs[0], opts.Restored, mine.Created)
	}
	made := []clientv3.Op{clientv3.OpPut(key, string(data))}
	for _, r := range opts.Records {
		at := keys.record(r.Table, r.Name)
		value, err := c.encodeRecord(at, &r)
		if err != nil {
			return Cluster{}, err
		}
		made = append(made, clientv3.OpPut(at, string(value)))
	}
	resp, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(made...).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return Cluster{}, fmt.Errorf("cannot read the cluster key: %w", err)
	}
	if resp.Succeeded {
		return mine, nil
	}
	return known(ctx, kv, resp.Responses[0].GetResponseRange().Kvs[0], opts.Restored, mine.Created)
}

// known is the cluster that a key tells of, with another identity where the data were restored from a backup.
func known(ctx context.Context, kv clientv3.KV, at *mvccpb.KeyValue, restored string, now time.Time) (Cluster, error) {
	was, err := parseCluster(at.Value)
	if err != nil || restored == "" || was.ID == restored {
		return was, err
	}
	return renew(ctx, kv, at, was, restored, now)
}

// renew gives data that were restored from a backup another identity: what came after the backup is not in them, so that nobody may go
// on from the revisions of before.
func renew(ctx context.Context, kv clientv3.KV, at *mvccpb.KeyValue, c Cluster, id string, now time.Time) (Cluster, error) {
	c.ID, c.Created, c.Rebuilding = id, now, true
	data, err := json.Marshal(c)
	if err != nil {
		return Cluster{}, err
	}
	key := string(at.Key)
	resp, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", at.ModRevision)).
		Then(clientv3.OpPut(key, string(data))).Commit()
	if err == nil && !resp.Succeeded {
		err = errors.New("another process writes it")
	}
	if err != nil {
		return Cluster{}, fmt.Errorf("cannot write the cluster key: %w", err)
	}
	return c, nil
}

// Has says whether there is a record in the store behind a client, without opening it.
func Has(ctx context.Context, kv clientv3.KV, table, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	resp, err := kv.Get(ctx, keyspace(DefaultPrefix).record(table, name), clientv3.WithCountOnly())
	if err != nil {
		return false, fmt.Errorf("cannot read record %s/%s: %w", table, name, err)
	}
	return resp.Count > 0, nil
}

// Format of the data, by the cluster key, as of the view. It is only ever raised.
func (s *Store) Format() int {
	s.fold.mu.Lock()
	defer s.fold.mu.Unlock()
	return s.fold.format
}

// Raise makes the format of the data this binary's, through a leader's committer: from then on binaries that know only older
// ones refuse the data. Where it is that already, nothing is written.
func (s *Store) Raise(ctx context.Context, by Committer) error {
	if s.Format() >= Format {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	key := s.keys.cluster()
	resp, err := s.client.Get(ctx, key)
	if err == nil && len(resp.Kvs) == 0 {
		err = errors.New("it is gone")
	}
	if err != nil {
		return fmt.Errorf("cannot read the cluster key: %w", err)
	}
	is, err := parseCluster(resp.Kvs[0].Value)
	if err != nil || is.Format >= Format {
		return err
	}
	is.Format = Format
	data, err := json.Marshal(is)
	if err != nil {
		return err
	}
	when := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", resp.Kvs[0].ModRevision)}
	if l, ok := by.(*leaderCommitter); ok {
		when = append(when, l.guard.cmp)
	}
	done, err := s.client.Txn(ctx).If(when...).Then(clientv3.OpPut(key, string(data))).Commit()
	if err == nil && !done.Succeeded {
		err = ErrConflict
	}
	if err != nil {
		return fmt.Errorf("cannot raise the format of the data to %d: %w", Format, err)
	}
	_, err = s.Wait(ctx, done.Header.Revision)
	return err
}

// parseCluster reads the cluster key; the error matches ErrNewerFormat where this binary is too old.
func parseCluster(value []byte) (Cluster, error) {
	var c Cluster
	if err := json.Unmarshal(value, &c); err != nil || c.ID == "" || c.Format < 1 {
		return Cluster{}, errors.New("cannot read the cluster key: it is not what Lockstep writes there")
	}
	if c.Format > Format {
		return Cluster{}, fmt.Errorf("%w: its format is %d, this binary knows up to %d", ErrNewerFormat, c.Format, Format)
	}
	return c, nil
}
