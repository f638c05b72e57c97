package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

// plane is a control plane's registrar over one store, and one folder that outlives it.
type plane struct {
	*Registrar
	t     *testing.T
	store *memory.Store
}

// startPlane runs a registrar at a time, over a new store that was made then.
func startPlane(t *testing.T, dir string, now, made time.Time) plane {
	t.Helper()
	backend := memory.New()
	ledger, err := OpenLedger(Dir(dir))
	if err != nil {
		t.Fatal(err)
	}
	tokens := Tokens{Store: backend, Commit: backend, Now: at(now)}
	r := NewRegistrar(open(t, dir, at(now)), tokens, RegistrarOptions{Ledger: ledger, StoreMade: made, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, backend.Ready()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return plane{r, t, backend}
}

func (p plane) join(opts TokenOptions, node string, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	p.t.Helper()
	token, err := p.tokens.Create(p.t.Context(), opts)
	if err != nil {
		p.t.Fatal(err)
	}
	certPEM, err := p.Join(p.t.Context(), token.Bearer(), node, newRequest(p.t, key))
	if err != nil {
		return nil, err
	}
	return leaf(p.t, certPEM), nil
}

func (p plane) mustJoin(node string, key *ecdsa.PrivateKey) *x509.Certificate {
	p.t.Helper()
	cert, err := p.join(TokenOptions{}, node, key)
	if err != nil {
		p.t.Fatal(err)
	}
	return cert
}

// TestStoreLost loses the store and keeps the authority's folder: names stay with their keys, removals stay removals.
func TestStoreLost(t *testing.T) {
	dir, day := t.TempDir(), 24*time.Hour
	before := startPlane(t, dir, start, start)
	mine, other, out := newKey(t), newKey(t), newKey(t)
	cert, outCert := before.mustJoin("n1", mine), before.mustJoin("n2", out)
	if err := before.Remove(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	after := startPlane(t, dir, start.Add(10*time.Hour), start.Add(10*time.Hour))
	if _, err := after.join(TokenOptions{}, "n1", other); !errors.Is(err, ErrTaken) {
		t.Errorf("an impostor with a token: %v", err)
	}
	if _, err := after.join(TokenOptions{Node: "n1"}, "n1", other); !errors.Is(err, ErrTaken) {
		t.Errorf("an impostor with a token for that name: %v", err)
	}
	if err := after.Admit(t.Context(), "n1", cert); err != nil {
		t.Errorf("the node itself: %v", err)
	}
	if _, err := after.Renew("n1", cert, newRequest(t, mine)); err != nil {
		t.Errorf("the node's renewal: %v", err)
	}
	if err := after.Admit(t.Context(), "n2", outCert); !errors.Is(err, ErrRemoved) {
		t.Errorf("a node that was removed before: %v", err)
	}
	if _, err := after.join(TokenOptions{}, "n3", out); err != nil {
		t.Logf("a removed key under another name: %v", err)
	} else {
		t.Error("a removed key joined under another name")
	}
	if _, err := after.join(TokenOptions{}, "n4", other); err != nil {
		t.Errorf("a new name, while the ledger knows all others: %v", err)
	}

	// The folder comes from an old backup: what was given out since is not known.
	if err := os.Remove(filepath.Join(dir, ledgerFile)); err != nil {
		t.Fatal(err)
	}
	blind := startPlane(t, dir, start.Add(20*day), start.Add(20*day))
	if _, err := blind.join(TokenOptions{}, "n1", other); !errors.Is(err, ErrUnproven) {
		t.Errorf("an impostor where nothing is known: %v", err)
	}
	if err := blind.Admit(t.Context(), "n1", cert); err != nil {
		t.Errorf("the node itself where nothing is known: %v", err)
	}
	if _, err := blind.join(TokenOptions{Node: "n9"}, "n9", other); err != nil {
		t.Errorf("a name that an operator answers for: %v", err)
	}
	again := startPlane(t, dir, start.Add(21*day), start.Add(21*day))
	if _, err := again.join(TokenOptions{}, "n5", newKey(t)); !errors.Is(err, ErrUnproven) {
		t.Errorf("the store is lost once more: %v", err)
	}
	late := startPlane(t, dir, start.Add(112*day), start.Add(21*day))
	if _, err := late.join(TokenOptions{}, "n5", newKey(t)); err != nil {
		t.Errorf("when no certificate from before can live: %v", err)
	}
}

// TestRemoved: the certificate ends with the removal, and with the Node object; the name is free.
func TestRemoved(t *testing.T) {
	p := startPlane(t, t.TempDir(), start, start)
	key := newKey(t)
	cert := p.mustJoin("n1", key)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	put := store.Write{Key: kinds.KeyOf(node), Object: node, If: store.Anyway, Reason: "test"}
	if r := p.store.Commit(t.Context(), store.Group{put})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	if err := p.Remove(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	if p.store.View().Get(kinds.KeyOf(node)) != nil {
		t.Error("the Node object is still there")
	}
	if name, at := LastRemoved(p.store.View()); name != "n1" || at.IsZero() {
		t.Errorf("the last removed is %q at %v", name, at)
	}
	if err := p.Admit(t.Context(), "n1", cert); !errors.Is(err, ErrRemoved) {
		t.Errorf("admitted: %v", err)
	}
	if _, err := p.Renew("n1", cert, newRequest(t, key)); !errors.Is(err, ErrRemoved) {
		t.Errorf("renewed: %v", err)
	}
	if _, err := p.join(TokenOptions{}, "n1", key); !errors.Is(err, ErrRemoved) {
		t.Errorf("joined again with the removed key: %v", err)
	}
	if err := p.Remove(t.Context(), "n1"); err == nil {
		t.Error("a node that is not there was removed")
	}
	fresh := newKey(t)
	second := p.mustJoin("n1", fresh)
	if err := p.Admit(t.Context(), "n1", cert); !errors.Is(err, ErrRemoved) {
		t.Errorf("the old certificate under the new registration: %v", err)
	}
	if r := p.store.Commit(t.Context(), store.Group{put}, store.Group{{Key: put.Key, If: store.Anyway, Reason: "test"}})[1]; r.Err != nil {
		t.Fatal(r.Err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for !errors.Is(p.Admit(t.Context(), "n1", second), ErrRemoved) {
		if time.Now().After(deadline) {
			t.Fatal("a node whose Node object was deleted is still admitted")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestRemovedWithVolumes: the directories of a node that is removed are known to have been made, however many there are.
func TestRemovedWithVolumes(t *testing.T) {
	p := startPlane(t, t.TempDir(), start, start)
	p.mustJoin("n1", newKey(t))
	of := func(i int) string { return []string{"n1", "n2"}[i%2] }
	const volumes = 3 * store.MaxGroup
	for i := range volumes {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pvc-%d", i),
			Labels:      map[string]string{kinds.LocalPathNode: of(i)},
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": kinds.LocalPath}}}
		put := store.Write{Key: kinds.KeyOf(pv), Object: pv, If: store.Anyway, Reason: "test"}
		if r := p.store.Commit(t.Context(), store.Group{put})[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if err := p.Remove(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	for i := range volumes {
		pv, ok := view.Get[*corev1.PersistentVolume](p.store.View(), "", fmt.Sprintf("pvc-%d", i))
		if !ok || (pv.Annotations[kinds.LocalPathMade] == "true") != (of(i) == "n1") {
			t.Errorf("volume %d of %s: %v", i, of(i), pv.Annotations)
		}
	}
}

// fullDisk is a vault that takes nothing while it is full.
type fullDisk struct {
	Vault
	full bool
}

// Replace implements Vault.
func (d *fullDisk) Replace(name string, data []byte) error {
	if d.full {
		return syscall.ENOSPC
	}
	return d.Vault.Replace(name, data)
}

// Append implements Vault.
func (d *fullDisk) Append(name string, data []byte) error {
	if d.full {
		return syscall.ENOSPC
	}
	return d.Vault.Append(name, data)
}

// TestFullDisk: no certificate is handed out that the ledger does not know, also at a second try.
func TestFullDisk(t *testing.T) {
	dir := Dir(t.TempDir())
	a := open(t, string(dir), at(start))
	disk := &fullDisk{Vault: dir}
	ledger, err := OpenLedger(disk)
	if err != nil {
		t.Fatal(err)
	}
	backend := memory.New()
	r := NewRegistrar(a, Tokens{Store: backend, Commit: backend, Now: at(start)}, RegistrarOptions{Ledger: ledger})
	close(r.restored)
	p, key := plane{r, t, backend}, newKey(t)
	disk.full = true
	for range 2 {
		if _, err := p.join(TokenOptions{}, "n1", key); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("joined while the disk is full: %v", err)
		}
	}
	disk.full = false
	p.mustJoin("n1", key)
	reopened, err := OpenLedger(dir)
	if err != nil {
		t.Fatal(err)
	}
	if k, _, _ := reopened.read(); k.Nodes["n1"].Key == "" {
		t.Error("the ledger does not know the node")
	}

	// A server that is killed starts also while the disk is full, from a ledger whose last line is half written.
	if err := dir.Append(ledgerFile, []byte(`{"node":"n2","is":{"ke`)); err != nil {
		t.Fatal(err)
	}
	disk.full = true
	if reopened, err = OpenLedger(disk); err != nil {
		t.Fatal(err)
	}
	if k, _, begun := reopened.read(); k.Nodes["n1"].Key == "" || !begun {
		t.Error("the ledger does not know the node while the disk is full")
	}
	is := registration{Key: "k3", Since: start}
	if err := reopened.register("n3", is); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("noted while the disk is full: %v", err)
	}
	disk.full = false
	if err := reopened.register("n3", is); err != nil {
		t.Fatal(err)
	}
	if reopened, err = OpenLedger(dir); err != nil {
		t.Fatal(err)
	}
	if k, _, _ := reopened.read(); len(k.Nodes) != 2 || k.Nodes["n3"] != is {
		t.Errorf("the ledger reads back as %v", k)
	}
}

// TestDeletedNodes: a Node object that is deleted by itself takes its certificate along; one that was removed, or has gone
// with its registration, takes nothing of whoever has the name now.
func TestDeletedNodes(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	reg := func(key string) *view.Record {
		return &view.Record{Table: pkiTable, Name: "node/n1", Data: []byte(`{"key":"` + key + `"}`)}
	}
	with, without := view.NewDB(), view.NewDB()
	with.Apply(1, []view.Change{{NewRecord: reg("k1"), Revision: 1}})
	deleted := view.Change{Key: kinds.KeyOf(node), Old: node}
	for name, c := range map[string]struct {
		batch store.Batch
		want  string
	}{
		"alone":   {store.Batch{View: with.View(), Changes: []view.Change{deleted}}, "k1"},
		"removed": {store.Batch{View: without.View(), Changes: []view.Change{deleted, {OldRecord: reg("k1")}}}, ""},
		"removed and back": {store.Batch{
			View:    with.View(),
			Changes: []view.Change{deleted, {OldRecord: reg("k0")}, {NewRecord: reg("k1")}},
		}, ""},
		"of no registration": {store.Batch{View: without.View(), Changes: []view.Change{deleted}}, ""},
		"written, not ended": {store.Batch{View: with.View(), Changes: []view.Change{{Key: deleted.Key, Old: node, New: node}}}, ""},
	} {
		gone := map[string]string{}
		concerns(c.batch, gone)
		if gone["n1"] != c.want {
			t.Errorf("%s: the key to remove is %q, want %q", name, gone["n1"], c.want)
		}
	}
}

func TestTokenForOneNode(t *testing.T) {
	p := startPlane(t, t.TempDir(), start, start)
	if _, err := p.join(TokenOptions{Node: "n1"}, "n2", newKey(t)); !errors.Is(err, ErrToken) {
		t.Errorf("another name: %v", err)
	}
	if _, err := p.join(TokenOptions{Node: "n1"}, "n1", newKey(t)); err != nil {
		t.Errorf("its name: %v", err)
	}
}

// TestOldRecords: what the last release has stored is followed without a write.
func TestOldRecords(t *testing.T) {
	p := startPlane(t, t.TempDir(), start, start)
	<-p.restored
	key := newKey(t)
	csr, err := parseRequest(newRequest(t, key))
	if err != nil {
		t.Fatal(err)
	}
	const old = `{"key":"%","since":"2025-12-01T02:03:04.567891234Z"}`
	data := []byte(strings.Replace(old, "%", fingerprint(csr.RawSubjectPublicKeyInfo), 1))
	write := store.Write{Record: &view.Record{Table: "pki", Name: "node/n1", Data: data}, Reason: "test"}
	if r := p.store.Commit(t.Context(), store.Group{write})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	rev := p.store.View().Revision()
	certPEM, err := p.authority.SignNode(csr, "n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Admit(t.Context(), "n1", leaf(t, certPEM)); err != nil {
		t.Error(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for known, _, _ := p.opts.Ledger.read(); known.Nodes["n1"].Key == ""; known, _, _ = p.opts.Ledger.read() {
		if time.Now().After(deadline) {
			t.Fatal("the ledger does not follow")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if now := p.store.View().Revision(); now != rev {
		t.Errorf("the store was written: revision %d, was %d", now, rev)
	}
}

// TestLedger reads what was written, also where the last line was cut off.
func TestLedger(t *testing.T) {
	dir := t.TempDir()
	write := func(l *Ledger, entries ...entry) {
		if err := l.note(entries...); err != nil {
			t.Fatal(err)
		}
	}
	reopen := func() *Ledger {
		l, err := OpenLedger(Dir(dir))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := reopen()
	if _, _, begun := l.read(); begun {
		t.Error("an empty folder has a ledger")
	}
	is := registration{Key: "k1", Since: start}
	write(l, entry{Node: "n1", Is: &is}, entry{Node: "n2", Is: &is})
	write(l, entry{Node: "n2", Key: "k2", Removed: &removed{Node: "n2", Since: start}})
	path := filepath.Join(dir, ledgerFile)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(data, []byte(`{"node":"n3","is":{"ke`)...), 0o600); err != nil {
		t.Fatal(err)
	}
	l = reopen()
	write(l, entry{Node: "n4", Is: &is})
	k, _, _ := reopen().read()
	if len(k.Nodes) != 2 || k.Nodes["n1"] != is || k.Nodes["n4"] != is || k.Removed["k2"].Node != "n2" {
		t.Errorf("the ledger reads back as %v", k)
	}
	if err := os.WriteFile(path, []byte("rubbish\n{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLedger(Dir(dir)); err == nil {
		t.Error("a ledger that was damaged in its midst opens")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if bytes.Contains(data, []byte("PRIVATE")) {
		t.Error("the ledger has a key")
	}
}
