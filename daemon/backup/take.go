package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Take writes a backup of all that an etcd has at one moment, which it tells us of as it comes. Client is one that dials, as
// etcd.Dialled is. About's revision is set.
func Take(ctx context.Context, client *clientv3.Client, to io.Writer, about About, recipients []age.Recipient) error {
	err := take(ctx, client, to, about, recipients)
	if err != nil {
		return fmt.Errorf("cannot back up etcd: %w", err)
	}
	return nil
}

func take(ctx context.Context, client *clientv3.Client, to io.Writer, about About, recipients []age.Recipient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream where it is left
	stream, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Snapshot(ctx, &etcdserverpb.SnapshotRequest{})
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	about.Revision = first.GetHeader().GetRevision()
	w, err := NewWriter(to, about, recipients)
	if err != nil {
		return err
	}
	// What remains does not count the checksum that etcd adds at the end.
	size := int64(len(first.GetBlob())) + int64(first.GetRemainingBytes()) + sha256.Size
	if err := w.Data(size, &blobs{next: stream.Recv, left: first.GetBlob()}); err != nil {
		return err
	}
	return w.Close()
}

// blobs reads what a stream has.
type blobs struct {
	next func() (*etcdserverpb.SnapshotResponse, error)
	left []byte
}

func (b *blobs) Read(p []byte) (int, error) {
	for len(b.left) == 0 {
		r, err := b.next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				err = fmt.Errorf("etcd does not send it whole: %w", err)
			}
			return 0, err
		}
		b.left = r.GetBlob()
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}
