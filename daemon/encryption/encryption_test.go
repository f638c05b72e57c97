package encryption

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/daemon/etcd/etcdtest"
	"lockstep/daemon/pki"
	"lockstep/internal/eventually"
	"lockstep/kinds"
	"lockstep/reconcilers/apiservers"
	"lockstep/store"
	"lockstep/store/view"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	canary   = "yellow-bird"
	patience = time.Minute
)

var quiet = slog.New(slog.DiscardHandler)

// server is a control plane as far as it seals.
type server struct {
	*testing.T
	name    string
	dir     string // its pki
	keyring *Keyring
	store   *store.Store
	end     func() error
}

// start starts a server on an etcd, with the keys in a folder.
func start(t *testing.T, client *clientv3.Client, name, dir string, c Config) (*server, error) {
	t.Helper()
	keys, err := pki.OpenSealingKeys(pki.Dir(dir), time.Now(), func() error { return Unsealed(t.Context(), client) })
	if err != nil {
		return nil, err
	}
	s := &server{T: t, name: name, dir: dir, keyring: NewKeyring(c, keys)}
	ctx, cancel := context.WithCancel(context.Background())
	s.store, err = store.Open(ctx, client, store.Options{
		Log: quiet, Server: name, Transformer: s.keyring, Records: []view.Record{*s.keyring.First().Record()},
	})
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- s.store.Run(ctx) }()
	ended := false
	s.end = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() { _ = s.end() })
	select {
	case <-s.store.Ready():
		return s, nil
	case err := <-done:
		ended = true
		cancel()
		return nil, err
	case <-time.After(patience):
		t.Fatal("the store is not ready")
	}
	return nil, nil
}

func must(t *testing.T, client *clientv3.Client, name, dir string, c Config) *server {
	t.Helper()
	s, err := start(t, client, name, dir, c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func secret(name, text string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Data: map[string][]byte{"a": []byte(text)}}
}

var secrets = kinds.For[*corev1.Secret]()

// put writes an object, and waits for the view to have it.
func (s *server) put(o kinds.Object, at int64) error {
	r := s.store.Commit(s.Context(), store.Group{{Key: kinds.KeyOf(o), Object: o, If: at}})[0]
	if r.Err == nil {
		_, r.Err = s.store.Wait(s.Context(), r.Revision)
	}
	return r.Err
}

func (s *server) mustPut(o kinds.Object, at int64) {
	s.Helper()
	if err := s.put(o, at); err != nil {
		s.Fatal(err)
	}
}

// text is what a Secret has in the view; empty: it is not there.
func (s *server) text(name string) string {
	if o, ok := view.Get[*corev1.Secret](s.store.View(), "shop", name); ok {
		return string(o.Data["a"])
	}
	return ""
}

func (s *server) wait(client *clientv3.Client) {
	s.Helper()
	now, err := client.Get(s.Context(), "/lockstep/cluster")
	if err == nil {
		_, err = s.store.Wait(s.Context(), now.Header.Revision)
	}
	if err != nil {
		s.Fatal(err)
	}
}

func raw(t *testing.T, client *clientv3.Client) map[string]string {
	t.Helper()
	resp, err := client.Get(t.Context(), "/lockstep/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range resp.Kvs {
		out[string(kv.Key)] = string(kv.Value)
	}
	return out
}

const (
	keyOfA = "/lockstep/objects/core/secrets/shop/a"
	keyOfB = "/lockstep/objects/core/secrets/shop/b"
	row    = "desired"
	rowOfA = "apps/core/secrets/shop/a"
)

// TestSealed has Secrets, and what sources state of them, sealed in etcd from a cluster's first write on, and nothing else.
func TestSealed(t *testing.T) {
	client, dir := etcdtest.Client(t), t.TempDir()
	s := must(t, client, "one", dir, Config{})
	s.mustPut(secret("a", canary), 0)
	s.mustPut(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a"}, Data: map[string]string{"a": "plain"}}, 0)
	for _, r := range []view.Record{
		{Table: row, Name: rowOfA, Data: []byte(`{"object":"` + canary + `"}`)},
		{Table: "staged", Name: rowOfA, Data: []byte(`{"object":"` + canary + `"}`)},
		{Table: row, Name: "apps/core/configmaps/shop/a", Data: []byte(`{"object":"plain"}`)},
	} {
		if got := s.store.Commit(t.Context(), store.Group{{Record: &r, If: store.Anyway}})[0]; got.Err != nil {
			t.Fatal(got.Err)
		}
	}
	s.wait(client)
	plain := 0
	for key, value := range raw(t, client) {
		if strings.Contains(value, canary) {
			t.Errorf("%s is stored in plain: %q", key, value)
		}
		if strings.Contains(value, "plain") {
			plain++
		}
	}
	if plain != 2 {
		t.Errorf("%d of 2 values are stored in plain that nobody asked to seal", plain)
	}
	if got := s.store.Seals(); got.By[s.keyring.First().Writes] != 3 || got.Stale != 0 || len(got.By) != 1 {
		t.Errorf("sealed: %+v", got)
	}
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	again := must(t, client, "one", dir, Config{})
	if got := again.text("a"); got != canary {
		t.Errorf("read again: %q", got)
	}
	if r, ok := again.store.View().Record(row, rowOfA); !ok || !bytes.Contains(r.Data, []byte(canary)) {
		t.Errorf("the record is %s, %v", r.Data, ok)
	}
}

// TestWrongKeys starts servers without the cluster's keys: each says which, of what, and where to have them, and nothing changes.
func TestWrongKeys(t *testing.T) {
	client, dir := etcdtest.Client(t), t.TempDir()
	s := must(t, client, "one", dir, Config{})
	s.mustPut(secret("a", canary), 0)
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if _, err := pki.OpenSealingKeys(pki.Dir(other), time.Now(), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	torn := t.TempDir()
	if err := pki.Dir(torn).Create("encryption.json", []byte(`{"keys":[{"name":"a","secret":"AAAA"}]}`)); err != nil {
		t.Fatal(err)
	}
	before := raw(t, client)
	for name, c := range map[string]struct{ dir, want string }{
		"none":              {t.TempDir(), "pki/encryption.json is not there: have it from a backup of the keys"},
		"another cluster's": {other, "the cluster seals with key " + s.keyring.First().Writes + ", which is not in pki/encryption.json"},
		"damaged":           {torn, "has 3 bytes, want 32; have it from a backup"},
	} {
		if _, err := start(t, client, "one", c.dir, Config{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// The record of the keys is gone or was changed, and the keys are another cluster's: the values themselves tell.
	for _, value := range []string{"", `{"writes":"","keys":null}`} {
		if value == "" {
			_, _ = client.Delete(t.Context(), "/lockstep/records/encryption/state")
		} else if _, err := client.Put(t.Context(), "/lockstep/records/encryption/state", "lks\x01j\x01v"+value); err != nil {
			t.Fatal(err)
		}
		_, err := start(t, client, "one", other, Config{})
		if !errors.Is(err, store.ErrWrongKeys) || !strings.Contains(err.Error(), "cannot read Secret shop/a") ||
			!strings.Contains(err.Error(), "from another server") {
			t.Errorf("with %q: %v", value, err)
		}
	}
	after := raw(t, client)
	if after[keyOfA] != before[keyOfA] || len(after) != len(before) {
		t.Errorf("something was changed: %d values were %d", len(after), len(before))
	}
}

// TestDamagedValues has values change under the hands of the cluster: they are there, and neither made again nor removed.
func TestDamagedValues(t *testing.T) {
	client, dir := etcdtest.Client(t), t.TempDir()
	s := must(t, client, "one", dir, Config{})
	s.mustPut(secret("a", canary), 0)
	s.mustPut(secret("b", "other"), 0)
	sub := s.store.Subscribe("test")
	defer sub.Close()
	values := raw(t, client)
	key := kinds.KeyOf(secret("b", ""))
	rev := kinds.Revision(s.store.View().Get(key))
	check := func(when string, s *server, known string) {
		t.Helper()
		s.wait(client)
		if got := s.text("b"); got != known {
			t.Errorf("%s: the Secret is %q, want %q", when, got, known)
		}
		if why := s.store.View().Unreadable(key); !strings.Contains(why, "damaged, or stored under another name") {
			t.Errorf("%s: it is unreadable because %q", when, why)
		}
		if got := s.store.Seals().Unreadable["Secret shop/b"]; got == "" {
			t.Errorf("%s: it is not told: %+v", when, s.store.Seals())
		}
		now := raw(t, client)[keyOfB]
		for name, w := range map[string]store.Write{
			"made again": {Key: key, Object: secret("b", "new")}, "changed": {Key: key, Object: secret("b", "new"), If: rev},
			"overwritten": {Key: key, Object: secret("b", "new"), If: store.Anyway}, "removed": {Key: key, If: rev},
		} {
			if r := s.store.Commit(t.Context(), store.Group{w})[0]; !errors.Is(r.Err, store.ErrUnreadable) ||
				!strings.Contains(r.Err.Error(), "Secret shop/b") || !strings.Contains(r.Err.Error(), "discard") {
				t.Errorf("%s: %s: %v", when, name, r.Err)
			}
		}
		if raw(t, client)[keyOfB] != now {
			t.Errorf("%s: what is stored has changed", when)
		}
	}
	damage := func(value string) {
		t.Helper()
		if _, err := client.Put(t.Context(), keyOfB, value); err != nil {
			t.Fatal(err)
		}
	}
	damage(values[keyOfA])
	check("another's value", s, "other")
	flipped := []byte(values[keyOfB])
	flipped[len(flipped)-1] ^= 1
	damage(string(flipped))
	check("a bit flipped", s, "other")
	damage(values[keyOfB])
	s.wait(client)
	if s.text("b") != "other" || s.store.View().Unreadable(key) != "" || len(s.store.Seals().Unreadable) > 0 {
		t.Errorf("mended, it is %q: %+v", s.text("b"), s.store.Seals())
	}
	damage(values[keyOfA])
	s.wait(client)
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	for range len(sub.C) {
		if b := <-sub.C; len(b.Changes) > 0 && b.Changes[0].Key == key && b.Changes[0].New == nil {
			t.Error("subscribers were told that it is gone")
		}
	}
	s = must(t, client, "one", dir, Config{})
	check("after a restart", s, "")
	if err := s.store.Discard(t.Context(), "Secret shop/a"); err == nil {
		t.Error("a value that can be read was discarded")
	}
	if err := s.store.Discard(t.Context(), "Secret shop/b"); err != nil {
		t.Fatal(err)
	}
	s.mustPut(secret("b", "new"), 0)
	if s.text("b") != "new" || len(s.store.Seals().Unreadable) > 0 {
		t.Errorf("discarded and made again: %q, %+v", s.text("b"), s.store.Seals())
	}
	// A record: whoever reads it is told, and nobody overwrites it.
	at := "/lockstep/records/desired/" + rowOfA
	r := view.Record{Table: row, Name: rowOfA, Data: []byte(`{}`)}
	if got := s.store.Commit(t.Context(), store.Group{{Record: &r}})[0]; got.Err != nil {
		t.Fatal(got.Err)
	}
	if _, err := client.Put(t.Context(), at, values[keyOfA]); err != nil {
		t.Fatal(err)
	}
	s.wait(client)
	if _, there, err := view.Table[struct{}](row).Get(s.store.View(), rowOfA); !there || err == nil {
		t.Errorf("the record is there: %v, %v", there, err)
	}
	if got := s.store.Commit(t.Context(), store.Group{{Record: &r, If: store.Anyway}})[0]; !errors.Is(got.Err, store.ErrUnreadable) {
		t.Errorf("the record is written over: %v", got.Err)
	}
}

// TestPlainIsSealed has a cluster of the format before: nothing is sealed while a server of it may run, then everything.
func TestPlainIsSealed(t *testing.T) {
	client, dir := etcdtest.Client(t), t.TempDir()
	s := must(t, client, "one", dir, Config{})
	was, err := client.Get(t.Context(), "/lockstep/cluster")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), "/lockstep/cluster",
		strings.Replace(string(was.Kvs[0].Value), `"format":2`, `"format":1`, 1)); err != nil {
		t.Fatal(err)
	}
	_, _ = client.Delete(t.Context(), "/lockstep/records/encryption/state")
	s = must(t, client, "one", dir, Config{})
	s.mustPut(secret("a", canary), 0)
	s.mustPut(lease("old", apiservers.Told{}), 0)
	end := s.lead(time.Now)
	time.Sleep(3 * every) // long enough for a step that should not be
	if got := s.store.Seals(); s.store.Format() != 1 || got.By[""] != 1 || !strings.Contains(raw(t, client)[keyOfA], canary) {
		t.Errorf("with an old server: format %d, %+v", s.store.Format(), got)
	}
	old := s.store.View().Get(apiservers.Key("old"))
	s.mustPut(lease("old", apiservers.Told{Format: store.Format}), kinds.Revision(old))
	eventually.Nil(t, patience, "everything is sealed", func() error {
		if got := s.store.Seals(); s.store.Format() != 2 || got.Stale > 0 || got.By[s.keyring.First().Writes] != 1 {
			return errors.New("not yet")
		}
		return nil
	})
	end()
	if strings.Contains(raw(t, client)[keyOfA], canary) || s.text("a") != canary {
		t.Errorf("it is stored as %q and read as %q", raw(t, client)[keyOfA], s.text("a"))
	}
}

func lease(name string, told apiservers.Told) *coordinationv1.Lease {
	l := apiservers.Lease(nil, name, netip.MustParseAddrPort("192.0.2.1:6443"), time.Now(), time.Now())
	apiservers.Tell(l, told)
	return l
}

// lead has a server carry out what the leader does, and keep its files, until the function that is returned is called.
func (s *server) lead(now func() time.Time) (end func()) {
	o := Options{Store: s.store, Keyring: s.keyring, Log: quiet, Now: now}
	return s.both(
		func(ctx context.Context) error {
			return s.store.Lead(ctx, s.name, func(ctx context.Context, c store.Committer) error { return Lead(ctx, o, c) })
		},
		func(ctx context.Context) error { return Follow(ctx, o) })
}

func (s *server) both(tasks ...func(context.Context) error) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, len(tasks))
	for _, f := range tasks {
		go func() { done <- f(ctx) }()
	}
	return func() {
		s.Helper()
		cancel()
		for range tasks {
			if err := <-done; err != nil {
				s.Error(err)
			}
		}
	}
}

// tell has a server announce what it keeps.
func (s *server) tell() {
	s.Helper()
	keys, writes := s.keyring.Kept()
	s.mustPut(lease(s.name, apiservers.Told{Format: store.Format, Keys: keys, Writes: writes}), store.Anyway)
}

// TestRotation replaces the key of two servers, of which the leader ends half way, and finds nothing of the old one afterwards; a server
// that comes later with the old files alone is refused.
func TestRotation(t *testing.T) {
	client, dir := etcdtest.Client(t), t.TempDir()
	one := must(t, client, "one", dir, Config{})
	copied := t.TempDir()
	data, err := pki.Dir(dir).Read("encryption.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{copied, filepath.Join(copied, "late")} {
		if err := pki.Dir(d).Create("encryption.json", data); err != nil {
			t.Fatal(err)
		}
	}
	two := must(t, client, "two", copied, Config{})
	const many = 250
	for i := range many {
		one.mustPut(secret("s"+string(rune('a'+i/26))+string(rune('a'+i%26)), canary), 0)
	}
	first := one.keyring.First().Writes
	var ahead atomic.Int64 // of the leader's clock
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	one.tell()
	two.tell()
	end := one.lead(time.Now)
	o := Options{Store: two.store, Keyring: two.keyring, Log: quiet, Now: time.Now}
	next, err := Rotate(t.Context(), o)
	if err != nil || next == first {
		t.Fatalf("rotating to %q: %v", next, err)
	}
	if _, err := Rotate(t.Context(), o); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("rotated twice: %v", err)
	}
	// The second server does not keep the key yet: nobody seals with it.
	eventually.Nil(t, patience, "the first server keeps the key", func() error {
		if keys, _ := one.keyring.Kept(); len(keys) != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	one.tell()
	time.Sleep(2 * every)
	if got := one.store.Seals().By; got[first] != many || got[next] != 0 {
		t.Errorf("before every server has the key: %v", got)
	}
	endTwo := two.both(func(ctx context.Context) error { return Follow(ctx, o) })
	eventually.Nil(t, patience, "some are sealed anew", func() error {
		two.tell()
		if one.store.Seals().By[next] == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	end() // the leader ends half way, and another goes on
	endTwo()
	ahead.Store(int64(2 * settle))
	end = two.lead(now)
	defer func() { end() }()
	follow := one.both(func(ctx context.Context) error {
		return Follow(ctx, Options{Store: one.store, Keyring: one.keyring, Log: quiet, Now: time.Now})
	})
	defer func() { follow() }()
	eventually.Nil(t, patience, "the old key is dropped", func() error {
		one.tell()
		two.tell()
		ahead.Add(int64(settle))
		for _, s := range []*server{one, two} {
			if keys, writes := s.keyring.Kept(); len(keys) != 1 || keys[0] != next || writes != next {
				return errors.New("not yet")
			}
		}
		return nil
	})
	for key, value := range raw(t, client) {
		if strings.HasPrefix(key, "/lockstep/objects/core/secrets/") && !strings.Contains(value, "k8s:enc:lockstep:v1:"+next+":") {
			t.Fatalf("%s is stored as %q", key, value)
		}
	}
	if one.text("saa") != canary || two.text("saa") != canary {
		t.Errorf("read: %q, %q", one.text("saa"), two.text("saa"))
	}
	if _, err := start(t, client, "late", filepath.Join(copied, "late"), Config{}); !errors.Is(err, store.ErrWrongKeys) {
		t.Errorf("a server with the old key alone: %v", err)
	}
	// What etcd remembers from before cannot be read any more: it is forgotten, not told as removals.
	v := one.store.View()
	since, changes, err := one.store.History(t.Context(), 1, v.Revision())
	if err != nil || since <= 1 {
		t.Errorf("history since %d, %v", since, err)
	}
	for _, c := range changes {
		if c.Key.Resource == secrets.Resource && c.New == nil {
			t.Fatalf("history tells of the removal of %v", c.Key)
		}
	}
	third := must(t, client, "three", dir, Config{})
	if third.text("saa") != canary {
		t.Errorf("a server that starts anew reads %q", third.text("saa"))
	}
}
