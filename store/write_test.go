package store_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/daemon/etcd/etcdtest"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Data: map[string]string{"v": value}}
}

func put(o kinds.Object, rev int64) store.Group {
	return store.Group{{Key: kinds.KeyOf(o), Object: o, If: rev}}
}

func commit(t testing.TB, c store.Committer, g store.Group) int64 {
	t.Helper()
	r := c.Commit(t.Context(), g)[0]
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	return r.Revision
}

func wait(t testing.TB, s *store.Store, rev int64) *view.View {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	v, err := s.Wait(ctx, rev)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestDeposedLeader takes the key away behind a leader's back: its very next write must fail, though it does not know.
func TestDeposedLeader(t *testing.T) {
	client := etcdtest.Client(t)
	s := open(t, client, store.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	terms := 0
	err := s.Lead(ctx, "a", func(term context.Context, c store.Committer) error {
		terms++
		if terms == 2 {
			return errors.New("again the leader")
		}
		commit(t, c, put(configMap("led", "x"), 0))
		resp, err := client.Get(ctx, "/lockstep/leader/", clientv3.WithPrefix())
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("leader's key: %v, %v", resp, err)
		}
		if _, err := client.Delete(ctx, string(resp.Kvs[0].Key)); err != nil {
			t.Fatal(err)
		}
		results := c.Commit(ctx, put(configMap("one", "x"), 0), put(configMap("two", "x"), 0))
		for _, r := range results {
			if !errors.Is(r.Err, store.ErrDeposed) {
				t.Errorf("a deposed leader's commit = %+v", r)
			}
		}
		<-term.Done() // by what the writes have shown, though the lease is alive
		return term.Err()
	})
	if err == nil || terms != 2 {
		t.Errorf("Lead = %v after %d terms", err, terms)
	}
	// Others' writes pass meanwhile.
	commit(t, s, put(configMap("one", "x"), 0))
}

// lossy is an etcd whose answers to transactions are lost while lose is set, though the transactions are carried out.
type lossy struct {
	clientv3.KV
	lose chan struct{} // a token loses one answer
}

func (l *lossy) Txn(ctx context.Context) clientv3.Txn {
	return &lossyTxn{Txn: l.KV.Txn(ctx), lose: l.lose}
}

type lossyTxn struct {
	clientv3.Txn
	lose chan struct{}
}

func (t *lossyTxn) If(c ...clientv3.Cmp) clientv3.Txn  { t.Txn = t.Txn.If(c...); return t }
func (t *lossyTxn) Then(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(o...); return t }
func (t *lossyTxn) Else(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(o...); return t }

func (t *lossyTxn) Commit() (*clientv3.TxnResponse, error) {
	resp, err := t.Txn.Commit()
	select {
	case <-t.lose:
		return nil, context.DeadlineExceeded
	default:
		return resp, err
	}
}

func TestUnknownOutcome(t *testing.T) {
	client := etcdtest.Client(t)
	kv := &lossy{KV: client.KV, lose: make(chan struct{}, 1)}
	client.KV = kv
	s := open(t, client, store.Options{})
	kv.lose <- struct{}{}
	r := s.Commit(t.Context(), put(configMap("a", "1"), 0))[0]
	if !errors.Is(r.Err, store.ErrUnknown) {
		t.Fatalf("commit = %+v, want %v", r, store.ErrUnknown)
	}
	// It was written: the next conditional write of the key finds out.
	if r := s.Commit(t.Context(), put(configMap("a", "2"), 0))[0]; !errors.Is(r.Err, store.ErrConflict) {
		t.Fatalf("commit = %+v, want %v", r, store.ErrConflict)
	}
	rev, err := s.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, ok := view.Get[*corev1.ConfigMap](wait(t, s, rev), "shop", "a")
	if !ok || a.Data["v"] != "1" {
		t.Fatalf("the view has %v", a)
	}
	commit(t, s, put(configMap("a", "3"), kinds.Revision(a)))
}

// TestBrokenValue edits a key by hand: the object counts as absent, and creating it repairs the key.
func TestBrokenValue(t *testing.T) {
	client := etcdtest.Client(t)
	s := open(t, client, store.Options{})
	wait(t, s, commit(t, s, put(configMap("a", "1"), 0)))
	resp, err := client.Put(t.Context(), "/lockstep/objects/core/configmaps/shop/a", "garbage")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := view.Get[*corev1.ConfigMap](wait(t, s, resp.Header.Revision), "shop", "a"); ok {
		t.Fatal("garbage is in the view")
	}
	v := wait(t, s, commit(t, s, put(configMap("a", "2"), 0)))
	if a, ok := view.Get[*corev1.ConfigMap](v, "shop", "a"); !ok || a.Data["v"] != "2" {
		t.Errorf("the view has %v", a)
	}
}

func TestNewerFormat(t *testing.T) {
	client := etcdtest.Client(t)
	ctx := t.Context()
	s, err := store.Open(ctx, client, store.Options{Log: quiet, Settings: []byte(`{"a":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	again, err := store.Open(ctx, client, store.Options{Log: quiet, Settings: []byte(`{"a":2}`)})
	if err != nil || string(s.Cluster().Settings) != `{"a":1}` || !reflect.DeepEqual(again.Cluster(), s.Cluster()) {
		t.Fatalf("the cluster is %+v, then %+v, %v", s.Cluster(), again, err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	newer := fmt.Sprintf(`{"id":%q,"format":%d}`, s.Cluster().ID, store.Format+1)
	if _, err := client.Put(ctx, "/lockstep/cluster", newer); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, store.ErrNewerFormat) {
		t.Errorf("Run = %v, want %v", err, store.ErrNewerFormat)
	}
	if _, err := store.Open(ctx, client, store.Options{Log: quiet}); !errors.Is(err, store.ErrNewerFormat) {
		t.Errorf("Open = %v, want %v", err, store.ErrNewerFormat)
	}
}

// TestSharedEtcd wants reads to reach revisions in which nothing of ours changed.
func TestSharedEtcd(t *testing.T) {
	client := etcdtest.Client(t)
	s := open(t, client, store.Options{})
	if _, err := client.Put(t.Context(), "/others/key", "x"); err != nil {
		t.Fatal(err)
	}
	rev, err := s.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wait(t, s, rev)
}
