package sync

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/v1alpha1"
	"lockstep/lab/githost"
	"lockstep/store/view"
)

// bigFiles is how many manifests the benchmarks' sources have, a hundred a folder.
const bigFiles = 10_000

// writeBig writes one manifest of a big source.
func writeBig(b *testing.B, dir string, i int, color string) {
	path := filepath.Join(dir, fmt.Sprintf("team-%02d", i/100), fmt.Sprintf("settings-%05d.yaml", i))
	if i%100 == 0 {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	content := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings-%05d, namespace: default}\ndata: {color: %s}\n", i,
		color)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		b.Fatal(err)
	}
}

// followBig follows a big source and returns, for one manifest, a function that waits until its object has a color.
func followBig(b *testing.B, src v1alpha1.Source) (*Sync, func(i int, color string)) {
	st := newStore(nil)
	s, err := New(Options{Sources: []v1alpha1.Source{src}, Store: st, Commit: st, DataDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		<-done
	})
	until := func(f func() bool) {
		for end := time.Now().Add(2 * time.Minute); !f(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				b.Fatal("never")
			}
		}
	}
	until(func() bool {
		live, _ := view.Get[*v1alpha1.Source](st.View(), "", src.Name)
		return live != nil && live.Status.State == "success"
	})
	return s, func(i int, color string) {
		until(func() bool {
			c, _ := view.Get[*corev1.ConfigMap](st.View(), "default", fmt.Sprintf("settings-%05d", i))
			return c.Data["color"] == color
		})
	}
}

// BenchmarkFolderChange is a one-line change in a folder of 10,000 manifests, from the write to the stored object.
func BenchmarkFolderChange(b *testing.B) {
	dir := b.TempDir()
	for i := range bigFiles {
		writeBig(b, dir, i, "blue")
	}
	_, stored := followBig(b, named("big", v1alpha1.SourceSpec{Folder: dir}))
	b.ResetTimer()
	for n := range b.N {
		b.StopTimer()
		time.Sleep(300 * time.Millisecond)
		i, color := (n*7919)%bigFiles/100*100+1, fmt.Sprintf("c%d", n)
		b.StartTimer()
		writeBig(b, dir, i, color)
		stored(i, color)
	}
}

// BenchmarkPush is a one-line push to a repository of 10,000 manifests, from the webhook to the stored object.
func BenchmarkPush(b *testing.B) {
	host := githost.New(b.TempDir(), githost.Options{})
	if _, err := host.Create(b.Context(), "team/big"); err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(host.Handler())
	defer server.Close()
	url, work := server.URL+"/team/big.git", b.TempDir()
	run := func(args ...string) {
		cmd := exec.CommandContext(b.Context(), "git",
			append([]string{"-C", work, "-c", "user.name=Ada", "-c", "user.email=ada@example.com"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	for i := range bigFiles {
		writeBig(b, work, i, "blue")
	}
	run("init", "-q", "-b", "main")
	run("add", "-A")
	run("commit", "-q", "-m", "all")
	run("push", "-q", url, "main")
	s, stored := followBig(b, named("big", v1alpha1.SourceSpec{URL: url, Branch: "main", Interval: metav1.Duration{Duration: time.Hour}}))
	b.ResetTimer()
	for n := range b.N {
		b.StopTimer()
		i, color := n*7919%bigFiles, fmt.Sprintf("c%d", n)
		writeBig(b, work, i, color)
		run("commit", "-q", "-a", "-m", color)
		run("push", "-q", url, "main")
		time.Sleep(1100 * time.Millisecond) // looks that are asked for are a second apart
		b.StartTimer()
		s.poke()
		stored(i, color)
	}
}

func named(name string, spec v1alpha1.SourceSpec) v1alpha1.Source {
	s := v1alpha1.Source{Spec: spec}
	s.Name = strings.ToLower(name)
	return s
}
