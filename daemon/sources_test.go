package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/daemon/control"
	"lockstep/daemon/etcd"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
)

// TestSourcesComeAndGoWhileTheDaemonRuns: what was configured is an object of the store, and objects that come later are
// followed like it, until they go.
func TestSourcesComeAndGoWhileTheDaemonRuns(t *testing.T) {
	o := options(t)
	of := func(name string) v1alpha1.Source {
		folder := t.TempDir()
		text := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: default}\n", name)
		if err := os.WriteFile(filepath.Join(folder, "a.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		s := v1alpha1.Source{}
		s.Name, s.Spec.Folder = name, folder
		return s
	}
	o.Sources = []v1alpha1.Source{of("shop")}
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	registry := prometheus.NewRegistry()
	database, err := etcd.Start(ctx, etcdOptions(o, registry, nil))
	if err != nil {
		t.Fatal(err)
	}
	p, err := assemble(ctx, o, registry, database, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run = %v after its context ended", err)
		}
		p.tunnels.Close()
		if err := database.Close(); err != nil {
			t.Error(err)
		}
	}()
	door := control.Dial(o.RunDir)
	await := func(what, want string) {
		t.Helper()
		last := ""
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			report, err := door.Report(ctx)
			if err != nil {
				continue
			}
			last = ""
			for _, s := range report.Sources {
				last += fmt.Sprintf("%s %s %d; ", s.Name, s.Status.State, len(s.Objects))
			}
			if last == want {
				return
			}
		}
		t.Fatalf("%s did not happen; last: %s", what, last)
	}
	await("the start", "shop success 1; ")
	late := of("late")
	key := kinds.KeyOf(&late)
	if r := p.store.Commit(ctx, store.Group{{Key: key, Object: &late}})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	await("a source that comes", "shop success 1; late success 1; ")
	if r := p.store.Commit(ctx, store.Group{{Key: key, If: store.Anyway}})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	await("a source that goes", "shop success 1; ")
	object := kinds.Key{Resource: "configmaps", Namespace: "default", Name: "late"}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, kept := p.store.View().Record("desired", "late/"+object.Path())
		if !kept {
			break
		}
		if time.Now().After(end) {
			t.Fatal("its inventory is never forgotten")
		}
	}
	if p.store.View().Get(object) == nil {
		t.Error("its object went with it")
	}
}
