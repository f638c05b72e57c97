package etcd_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lockstep/daemon/etcd"
)

// filled is the data directory of an etcd that has run, had a hundred keys written, and was stopped; with its options, a snapshot of it
// taken while it ran, and the revision of that.
func filled(t *testing.T) (opts etcd.Options, snapshot []byte, revision int64) {
	t.Helper()
	sockets, err := os.MkdirTemp("", "ls") // their paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	opts = etcd.Options{DataDir: t.TempDir(), SocketDir: sockets, Log: quiet}
	e, err := etcd.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		put, err := e.Client.Put(t.Context(), fmt.Sprint("/lockstep/", i), "before")
		if err != nil {
			t.Fatal(err)
		}
		revision = put.Header.Revision
	}
	stream, err := e.Dialled().Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	if _, err := all.ReadFrom(stream); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Client.Put(t.Context(), "/lockstep/0", "after"); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return opts, all.Bytes(), revision
}

func writing(data []byte) func(*os.File) error {
	return func(f *os.File) error { _, err := f.Write(data); return err }
}

// TestRestore: the data are those of the snapshot, with revisions that nobody was given, another identity, and those before beside.
func TestRestore(t *testing.T) {
	opts, snapshot, revision := filled(t)
	if _, err := etcd.Restore(opts.DataDir, false, writing(snapshot)); !errors.Is(err, etcd.ErrData) {
		t.Fatalf("over data that are there: %v", err)
	}
	e, err := etcd.Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("after a restore that was refused: %v", err)
	}
	_, err = etcd.Restore(opts.DataDir, true, writing(snapshot))
	if err == nil || !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("under a running server: %v", err)
	}
	if got, err := e.Client.Get(t.Context(), "/lockstep/0"); err != nil || string(got.Kvs[0].Value) != "after" {
		t.Errorf("it has %v, %v", got, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for what, broken := range map[string][]byte{
		"cut off": snapshot[:len(snapshot)/2], "changed": bytes.Replace(snapshot, []byte("before"), []byte("hacked"), 1), "empty": nil,
	} {
		if _, err := etcd.Restore(opts.DataDir, true, writing(broken)); err == nil {
			t.Fatalf("%s: it is restored", what)
		}
	}
	if id, err := etcd.Restored(opts.DataDir); id != "" || err != nil {
		t.Errorf("nothing was restored, and the identity is %q, %v", id, err)
	}
	kept, err := etcd.Restore(opts.DataDir, true, writing(snapshot))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(opts.DataDir, kept, "member", "snap", "db")); err != nil || kept == "" {
		t.Errorf("the data before are in %q: %v", kept, err)
	}
	if id, err := etcd.Restored(opts.DataDir); id == "" || err != nil {
		t.Errorf("the identity is %q, %v", id, err)
	}
	if e, err = etcd.Start(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	got, err := e.Client.Get(t.Context(), "/lockstep/", clientv3.WithPrefix())
	if err != nil || len(got.Kvs) != 100 || got.Header.Revision < revision+1<<30 {
		t.Fatalf("%d keys at revision %d, %v; it was %d", len(got.Kvs), got.Header.Revision, err, revision)
	}
	for _, kv := range got.Kvs {
		if string(kv.Value) != "before" {
			t.Errorf("%s is %s", kv.Key, kv.Value)
		}
	}
	w := <-e.Client.Watch(t.Context(), "/lockstep/", clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	if w.CompactRevision == 0 {
		t.Errorf("a watch from before goes on: %+v", w)
	}
	if err := etcd.Used(opts.DataDir); err != nil {
		t.Error(err)
	}
	if id, _ := etcd.Restored(opts.DataDir); id != "" {
		t.Errorf("it is to be given identity %q twice", id)
	}
}

// TestDamaged takes parts of etcd's files away or changes them: it says so and what to do, and nothing of what is left changes. All of
// them gone is a new cluster.
func TestDamaged(t *testing.T) {
	opts, _, _ := filled(t)
	member := filepath.Join(opts.DataDir, "member-data", "member")
	database := filepath.Join(member, "snap", "db")
	logs, err := filepath.Glob(filepath.Join(member, "wal", "*.wal"))
	if err != nil || len(logs) == 0 {
		t.Fatal(err, logs)
	}
	cut := func(path string, to int64) func() error { return func() error { return os.Truncate(path, to) } }
	scratch := func(path string, from, n int64) func() error {
		return func() error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, int(n)), from)
			return errors.Join(err, f.Close())
		}
	}
	for what, harm := range map[string]func() error{
		"the database is gone":               func() error { return os.Remove(database) },
		"the database is empty":              cut(database, 0),
		"the database is half":               cut(database, 8192),
		"the database's first pages are not": scratch(database, 0, 8192),
		"the log is gone":                    func() error { return os.RemoveAll(filepath.Join(member, "wal")) },
		"the log's files are gone":           func() error { return os.Remove(logs[0]) },
		"the log is changed":                 scratch(logs[0], 600, 400),
	} {
		whole := t.TempDir()
		if err := os.CopyFS(filepath.Join(whole, "etcd"), os.DirFS(opts.DataDir)); err != nil {
			t.Fatal(err)
		}
		if err := harm(); err != nil {
			t.Fatal(what, err)
		}
		before := listing(t, opts.DataDir)
		e, err := etcd.Start(t.Context(), opts)
		if err == nil {
			e.Close()
			t.Errorf("%s: it starts", what)
		} else if !errors.Is(err, etcd.ErrDamaged) || !strings.Contains(err.Error(), "lockstep restore FILE --replace") {
			t.Errorf("%s: %v", what, err)
		} else {
			t.Logf("%s: %v", what, err)
		}
		if after := listing(t, opts.DataDir); after != before {
			t.Errorf("%s: files were\n%s\nand are\n%s", what, before, after)
		}
		if err := os.RemoveAll(opts.DataDir); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(opts.DataDir, os.DirFS(filepath.Join(whole, "etcd"))); err != nil {
			t.Fatal(err)
		}
	}
	e, err := etcd.Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("whole: %v", err)
	}
	e.Close()
	if err := os.RemoveAll(filepath.Join(opts.DataDir, "member-data")); err != nil {
		t.Fatal(err)
	}
	if e, err = etcd.Start(t.Context(), opts); err != nil {
		t.Fatalf("with all of it gone: %v", err)
	}
	e.Close()
}

// listing has the files of etcd with their sizes, but for what a start may touch.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(filepath.Join(dir, "member-data"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		fmt.Fprintln(&text, path, info.Size())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}
