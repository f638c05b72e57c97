package etcd_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lockstep/daemon/etcd"
	"lockstep/daemon/etcd/etcdtest"
)

var update = flag.Bool("update", false, "make the data of the last release by this one")

const (
	// lastRelease is a data directory that etcd 3.6.16 made: before an upgrade the release that is left makes it anew.
	lastRelease = "testdata/last-release.tar.gz"
	// releasedWrites of as many keys as releasedKeys are in it: more than a log has between two snapshots.
	releasedWrites, releasedKeys = 1200, 100
)

// TestOpensTheLastRelease wants what the last release stored to be there as it was: values, revisions, history, leases.
func TestOpensTheLastRelease(t *testing.T) {
	if *update {
		makeRelease(t)
	}
	dir := t.TempDir()
	unpack(t, lastRelease, dir)
	var opts etcd.Options
	e := etcdtest.Start(t, func(o *etcd.Options) { o.DataDir = dir; opts = *o })
	checkRelease(t, e.Client, releasedWrites+1)
	if _, err := e.Client.Put(t.Context(), "/new", "x"); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := etcd.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	checkRelease(t, again.Client, releasedWrites+2)
}

func checkRelease(t *testing.T, c *clientv3.Client, revision int64) {
	t.Helper()
	now, err := c.Get(t.Context(), "/kept/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if now.Header.Revision != revision || len(now.Kvs) != releasedKeys {
		t.Fatalf("%d keys at revision %d, want %d at %d", len(now.Kvs), now.Header.Revision, releasedKeys, revision)
	}
	for i, kv := range now.Kvs {
		n := releasedWrites - releasedKeys + i
		if string(kv.Key) != releasedKey(n) || string(kv.Value) != fmt.Sprint(n) || kv.ModRevision != int64(n+2) ||
			kv.CreateRevision != int64(i+2) || kv.Version != releasedWrites/releasedKeys {
			t.Fatalf("%v, want write %d", kv, n)
		}
	}
	const past = releasedWrites / 2
	then, err := c.Get(t.Context(), releasedKey(past), clientv3.WithRev(past+2))
	if err != nil || len(then.Kvs) != 1 || string(then.Kvs[0].Value) != fmt.Sprint(past) {
		t.Errorf("what it was at revision %d: %v, %v", past+2, then, err)
	}
	lease := clientv3.LeaseID(now.Kvs[0].Lease)
	left, err := c.TimeToLive(t.Context(), lease, clientv3.WithAttachedKeys())
	if err != nil || left.TTL <= 0 || len(left.Keys) != 1 || string(left.Keys[0]) != releasedKey(0) {
		t.Errorf("the lease %x: %v, %v", lease, left, err)
	}
}

func releasedKey(write int) string { return fmt.Sprintf("/kept/%03d", write%releasedKeys) }

// makeRelease keeps the data directory of a server that has written and stopped.
func makeRelease(t *testing.T) {
	var dir string
	e := etcdtest.Start(t, func(o *etcd.Options) { dir = o.DataDir })
	lease, err := e.Client.Grant(t.Context(), 7*24*3600)
	if err != nil {
		t.Fatal(err)
	}
	for i := range releasedWrites {
		var options []clientv3.OpOption
		if i == releasedWrites-releasedKeys {
			options = append(options, clientv3.WithLease(lease.ID))
		}
		if _, err := e.Client.Put(t.Context(), releasedKey(i), fmt.Sprint(i), options...); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	pack(t, dir, lastRelease)
}

// pack writes the files of a folder into an archive, without the zeros that logs end in and the logs that are not used yet.
func pack(t *testing.T, dir, archive string) {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	files := tar.NewWriter(zipped)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".tmp") || d.Name() == "reserve" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".wal") {
			data = bytes.TrimRight(data, "\x00")
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := files.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err = files.Write(data)
		return err
	})
	for _, end := range []func() error{files.Close, zipped.Close} {
		if closed := end(); err == nil {
			err = closed
		}
	}
	if err == nil {
		err = os.WriteFile(archive, out.Bytes(), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func unpack(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for files := tar.NewReader(zipped); ; {
		h, err := files.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
