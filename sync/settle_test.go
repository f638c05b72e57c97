package sync

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/sync/plan"
	"lockstep/sync/source"
)

// several are n config maps of the namespace default, a file each.
func several(n int) map[string]string {
	files := map[string]string{}
	for i := range n {
		name := fmt.Sprintf("c%02d", i)
		files[name+".yaml"] = strings.NewReplacer("settings", name, "shop", "default").Replace(settings)
	}
	return files
}

func (w *world) write(dir string, files map[string]string) {
	w.t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// uids are the config maps of the store by name.
func (w *world) uids() map[string]string {
	uids := map[string]string{}
	for o := range w.store.View().List(kinds.For[*corev1.ConfigMap]().GroupResource(), "default") {
		uids[o.GetName()] = string(o.GetUID())
	}
	return uids
}

// TestFolderThatIsCopiedIsNotBelievedByHalves: the folder is moved away and comes back file by file, each a revision that
// has fewer than half missing in the end.
func TestFolderThatIsCopiedIsNotBelievedByHalves(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.work, "manifests")
	files := several(40)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.write(dir, files)
	w.spec.Spec = v1alpha1.SourceSpec{Folder: dir}
	w.start()
	w.until("all", func() bool { return w.status().Objects == 40 && w.status().State == "success" })
	before := w.uids()
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	w.until("the folder is missed", func() bool { return strings.Contains(w.status().FetchError, "does not exist") })
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	doubted := false
	for i := range 40 {
		name := fmt.Sprintf("c%02d.yaml", i)
		w.write(dir, map[string]string{name: files[name]})
		pause := 20 * time.Millisecond
		if i > 20 && i < 25 { // a copy that stutters, with half of the files there
			pause = source.Settle + 200*time.Millisecond
		}
		time.Sleep(pause)
		doubted = doubted || strings.HasPrefix(w.status().Message, "the folder has lost")
		if got := w.status().Objects; got != 40 {
			t.Fatalf("%d files are back, and %d objects are left", i+1, got)
		}
	}
	w.until("believed", func() bool { return w.status().State == "success" && w.status().Seen == w.status().Accepted })
	for name, uid := range w.uids() {
		if before[name] != uid {
			t.Errorf("%s was deleted and made again", name)
		}
	}
	if !doubted {
		t.Error("nobody was told what is waited for")
	}
	if !strings.Contains(w.logs.String(), "cannot read the folder") {
		t.Errorf("nobody was told that the folder is away:\n%s", w.logs)
	}
}

// TestFolderRestsLongerTheMoreItLost: a loss is believed after a quiet time that grows with it, at whose end the folder is
// as it was at its beginning.
func TestFolderRestsLongerTheMoreItLost(t *testing.T) {
	w := newWorld(t)
	w.write(w.work, several(40))
	w.spec.Spec = v1alpha1.SourceSpec{Folder: w.work}
	var clock atomic.Int64 // stands still unless moved
	w.start(func(o *Options) { o.Now = func() time.Time { return time.Unix(1_900_000_000, clock.Load()) } })
	w.until("all", func() bool { return w.status().Objects == 40 && w.status().State == "success" })
	for i := range 10 {
		if err := os.Remove(filepath.Join(w.work, fmt.Sprintf("c%02d.yaml", i))); err != nil {
			t.Fatal(err)
		}
	}
	w.until("doubted", func() bool { return strings.HasPrefix(w.status().Message, "the folder has lost 10 objects") })
	if got, want := w.status().Message, "the folder has lost 10 objects; believed once it has rested for 1s"; got != want ||
		w.status().State != "pending" {
		t.Errorf("%s: %s, want %s", w.status().State, got, want)
	}
	w.until("pruned", func() bool {
		if len(w.uids()) == 40 && clock.Load() < int64(quiet(10)) {
			clock.Add(int64(50 * time.Millisecond))
		}
		return len(w.uids()) == 30
	})
	if got := time.Duration(clock.Load()); got < quiet(10) {
		t.Errorf("believed after %v", got)
	}
	if quiet(1) >= time.Second || quiet(20_000) != quietMost {
		t.Errorf("quiet: %v for one, %v for 20,000", quiet(1), quiet(20_000))
	}
}

// TestBudgetCountsOverAWindow: what commits lose one after the other counts together, also across a restart, until it is
// allowed or ten minutes have passed.
func TestBudgetCountsOverAWindow(t *testing.T) {
	w := newWorld(t)
	var clock atomic.Int64
	now := func(o *Options) { o.Now = func() time.Time { return time.Unix(1_900_000_000, clock.Load()) } }
	remove := func(message string, from, to int) string {
		gone := map[string]string{}
		for i := from; i < to; i++ {
			gone[fmt.Sprintf("c%02d.yaml", i)] = ""
		}
		return w.push(message, gone)
	}
	first := w.push("first", several(20))
	s, stop := w.start(now)
	w.receives(first, "success: 20 objects")
	sha := remove("eight", 0, 8)
	s.poke()
	w.receives(sha, "success: 12 objects")
	stop()
	s, stop = w.start(now)
	sha = remove("three more", 8, 11)
	s.poke()
	w.receives(sha, "error: held: would delete 3 objects, 11 of 20 within 10 minutes; allow it with")
	if p, err := s.Plan(t.Context(), "shop"); err != nil || !strings.HasPrefix(p.Held, "held: would delete 3 objects") {
		t.Errorf("planned: %+v %v", p, err)
	}
	// A held revision stays held when what was lost before no longer counts.
	clock.Add(int64(plan.Window))
	stop()
	s, _ = w.start(now)
	w.until("looked at again", func() bool { return strings.Count(w.logs.String(), "result=held") == 2 })
	if got := len(w.uids()); got != 12 {
		t.Fatalf("%d objects are left", got)
	}
	sha = w.push("a newer one", map[string]string{"README": "hello"})
	s.poke()
	w.receives(sha, "success: 9 objects")
	sha = remove("all but one\n\nLockstep-Prune: allow", 11, 19)
	s.poke()
	w.receives(sha, "success: 1 object")
	for range w.store.View().Records("lost", "") {
		t.Error("what was allowed is not forgotten")
	}
}
