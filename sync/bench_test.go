package sync

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"context"

	"lockstep/daemon/store/view"
	"lockstep/kinds/v1alpha1"
)

// BenchmarkFolderChange is a one-line change in a folder of 10,000 manifests, from the write to the stored object.
func BenchmarkFolderChange(b *testing.B) {
	dir := b.TempDir()
	write := func(i int, color string) {
		path := filepath.Join(dir, fmt.Sprintf("team-%02d", i/100), fmt.Sprintf("settings-%05d.yaml", i))
		if i%100 == 0 {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		content := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings-%05d, namespace: default}\ndata: {color: %s}\n", i, color)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	const files = 10_000
	for i := range files {
		write(i, "blue")
	}
	st := newStore(nil)
	s, err := New(Options{Sources: []v1alpha1.Source{named("big", v1alpha1.SourceSpec{Folder: dir})}, Store: st, Commit: st})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	until := func(f func() bool) {
		for end := time.Now().Add(2 * time.Minute); !f(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				b.Fatal("never")
			}
		}
	}
	until(func() bool {
		src, _ := view.Get[*v1alpha1.Source](st.View(), "", "big")
		return src != nil && src.Status.State == "success"
	})
	b.ResetTimer()
	for n := range b.N {
		b.StopTimer()
		time.Sleep(300 * time.Millisecond)
		i, color := (n*7919)%files/100*100+1, fmt.Sprintf("c%d", n)
		b.StartTimer()
		write(i, color)
		until(func() bool {
			c, _ := view.Get[*corev1.ConfigMap](st.View(), "default", fmt.Sprintf("settings-%05d", i))
			return c.Data["color"] == color
		})
	}
}

func named(name string, spec v1alpha1.SourceSpec) v1alpha1.Source {
	s := v1alpha1.Source{Spec: spec}
	s.Name = strings.ToLower(name)
	return s
}
